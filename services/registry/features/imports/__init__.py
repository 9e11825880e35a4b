"""Rows that the service reads itself: files in allowed places, and queries of other databases."""
