"""The feature store's tables."""
