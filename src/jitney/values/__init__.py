"""Nouns: frozen Structs, enums and ids. Validation and arithmetic, nothing else."""
