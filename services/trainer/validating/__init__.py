"""A version tried on rows that it has not seen, as it is served, beside the one that serves; and judged."""
