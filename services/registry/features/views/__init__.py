"""Views: which features there are of which entities."""
