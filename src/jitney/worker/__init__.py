"""This machine's agent: owns templates and containers, and survives a server restart."""
