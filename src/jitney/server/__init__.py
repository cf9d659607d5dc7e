"""The control plane: links, the router (the data plane), the fleet of containers, the API and its loops."""
