"""The feature store: values of entities as they are now, and as they were known at any time."""
