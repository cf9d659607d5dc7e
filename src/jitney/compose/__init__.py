"""The only wiring place: configuration, the registry of drivers, and the processes put together from them."""
