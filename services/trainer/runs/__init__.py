"""Training runs: what callers see, what the store keeps, and the work itself."""
