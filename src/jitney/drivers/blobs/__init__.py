"""Drivers of ports.blobs; and `cached`, which has one of them near another."""
