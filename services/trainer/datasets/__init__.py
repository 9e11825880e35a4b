"""Datasets: rows in versions that never change."""
