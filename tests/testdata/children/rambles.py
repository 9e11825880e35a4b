"""Answers with what the file holds, and ends as if all were well."""

from __future__ import annotations

import sys

sys.stdout.write(sys.stdin.read())
