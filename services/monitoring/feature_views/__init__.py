"""Feature views as drift sees them: rows of a window, with their entities where users stand."""
