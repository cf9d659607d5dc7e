"""What runtimes that fork containers from warm processes have in common: the worker's side of a template."""
