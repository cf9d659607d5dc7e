"""What runs containers on a machine: drivers of `ports.runtime`."""
