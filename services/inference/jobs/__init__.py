"""Batch prediction: leased jobs over many rows, in a process of its own."""
