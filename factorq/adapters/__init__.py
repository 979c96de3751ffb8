"""Thin doors to frameworks: convert, call, convert back. Each needs its own optional dependency."""
