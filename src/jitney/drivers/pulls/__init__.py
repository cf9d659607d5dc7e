"""What brings images of others to this machine: drivers of `ports.pulls`."""
