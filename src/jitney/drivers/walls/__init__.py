"""Walls, seen from the worker: no driver, but what those drivers have in common that put something behind one.

`render` decides what a wall is made of, as data; `machine` knows what this machine gives for it; `wall` is the worker's
end of one that stands; `probe` tries whether there can be any. The other end is in `runner.wall`.
"""
