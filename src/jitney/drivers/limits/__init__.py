"""Drivers of `ports.limits`, and what watches a folder's size."""
