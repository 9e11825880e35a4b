"""All SQL of the rollups."""
