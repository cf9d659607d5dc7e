"""Drivers of `ports.checkpoints`."""
