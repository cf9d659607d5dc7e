"""The SDK: what user code holds. Handles do no I/O until they are first used."""
