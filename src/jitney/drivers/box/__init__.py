"""Boxes: drivers of `ports.box`."""
