"""What builds Dockerfiles as a whole. The driver for engines is beside their runtime: `drivers.runtime.oci`."""
