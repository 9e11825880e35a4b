"""Fixtures for every test: the real servers that they run on."""

from __future__ import annotations

pytest_plugins = ["tests.monitoring", "tests.postgres"]
