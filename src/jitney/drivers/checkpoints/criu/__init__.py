"""Checkpoints by CRIU (criu.org): the program `criu`, 4.1 or later, run by root."""

from jitney.drivers.checkpoints.criu.driver import CriuCheckpointer

__all__ = ["CriuCheckpointer"]
