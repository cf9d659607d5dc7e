"""One transition table for each thing that has states."""
