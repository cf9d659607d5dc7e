"""One file a noun. A handler loads, decides, applies, answers."""
