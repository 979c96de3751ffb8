"""Doctests are collected from all modules; those of adapters need their framework."""

from importlib.util import find_spec

collect_ignore_glob = [f"factorq/adapters/{name}*" for name in ("torch", "jax") if find_spec(name) is None]
