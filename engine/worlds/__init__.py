"""Procedural worlds: one renderer source for CPU and GPU, exact pose and depth."""
