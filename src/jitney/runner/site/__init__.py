"""A folder for the module search path of commands in containers: Python runs `sitecustomize` as it starts."""
