"""Decisions: pure functions of values and `now`. No clock, dice, loop, disk, socket or log."""
