"""What Penstock costs, measured side by side."""
