"""Instructions on 64-bit words that Numba has no names for."""
