"""Expressions that compute features from others: a small language, checked when a view is made."""
