"""Drivers of ports.sources."""
