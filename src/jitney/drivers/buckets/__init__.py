"""Drivers of `ports.buckets`."""
