"""What profiles keep in PostgreSQL."""
