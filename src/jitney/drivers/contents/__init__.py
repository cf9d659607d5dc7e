"""Drivers of ports.contents."""
