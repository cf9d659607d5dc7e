"""Ways out of walls: by the kernel's routing (`veth`, needs root), by a program (`usermode`), or none."""
