"""Writes to its answer without end."""

from __future__ import annotations

import os

while True:
    os.write(1, b"x" * 65536)
