"""Comparisons with fixture files, shared by pytest and by `python -m tests.reference`."""
