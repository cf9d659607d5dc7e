"""Drivers of `ports.trees`."""
