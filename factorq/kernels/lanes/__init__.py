"""Vectors of numbers in registers, for loops that compilers do not make into such."""
