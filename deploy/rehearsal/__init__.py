"""What docker build and docker compose up would do, done without an engine: see `__main__.py`."""
