"""What every driver of a port must do, as tests: subclass, and say how a driver is made."""
