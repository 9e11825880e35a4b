"""Executors: where recipes run."""
