"""Hostile code, to be run inside a container: what does its wall hold?

Each probe tries one thing that code in a container must not be able to do, and says what came of it. What is expected
of each tier is data beside the probe: `python -m jitney.testing.probes run --json` gives what was found where it runs,
and `... table` compares. A wall that lets one thing through that it should not, or that stops what it is said not to
stop, is a difference: both kinds make a table of promises wrong.

Probes need nothing but the standard library, ctypes and `jitney.runner`, so that they run in any image. They leave the
machine as it was, also where there is no wall: they ask for what is refused in a way that would do nothing (a wrong
magic number, the value that is there already), in mount namespaces of their own where they get one, and what could
exhaust the machine is run only where a limit on it is said to be in force.
"""
