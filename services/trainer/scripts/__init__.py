"""Scripts: Python of the users' own, in versions that never change. It is compiled here, and never run."""
