"""What runs inside the user's container: load, invoke, stream. Standard library only; as small as can be."""
