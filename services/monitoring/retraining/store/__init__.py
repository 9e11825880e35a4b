"""The SQL of retraining."""
