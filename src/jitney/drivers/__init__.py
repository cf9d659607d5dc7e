"""One folder a port. Siblings never import each other; only `compose` and `testing` name a driver."""
