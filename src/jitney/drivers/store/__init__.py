"""Drivers of ports.store."""
