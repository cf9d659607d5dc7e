"""Drivers of ports.logs."""
