"""The SQL of fetches and of what they have downloaded."""
