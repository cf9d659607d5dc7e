"""Limits by the kernel's control groups, of either version."""
