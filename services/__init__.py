"""The five services of Penstock: an application, run as `python -m services.<name>`."""
