"""For tests of Jitney, of its drivers and of programs that use it."""
