"""Drivers of ports.keys."""
