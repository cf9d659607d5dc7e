"""Drivers of ports.blobs."""
