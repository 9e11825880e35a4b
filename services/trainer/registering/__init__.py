"""What a run leaves becomes a version: its files in the registry, and a reference profile in monitoring."""
