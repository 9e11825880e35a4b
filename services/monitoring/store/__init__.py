"""The schema `monitoring`: its SQL, and its rows as dataclasses."""
