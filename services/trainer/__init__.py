"""The trainer: datasets, training runs, validation."""
