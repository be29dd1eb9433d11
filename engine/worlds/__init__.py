"""Procedural worlds: exact poses, exact depth, one renderer source for GPU and CPU."""
