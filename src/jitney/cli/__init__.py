"""The command line: one file a noun, each a thin layer over the SDK's session and the composition root."""
