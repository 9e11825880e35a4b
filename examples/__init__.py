"""What Penstock looks like from outside: `python -m examples.demo`, and a client in twenty lines."""
