"""The protocol, once: messages, the table of methods, frames, and where a server is found."""
