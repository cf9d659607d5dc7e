"""What the shells need from outside: one small Protocol a file, its contract in numbered sentences."""
