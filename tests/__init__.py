"""Tests, and the oracles they compare with."""
