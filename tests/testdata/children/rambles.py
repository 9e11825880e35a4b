"""Answers with what the file holds, and ends as if all were well."""

from __future__ import annotations

import sys
from pathlib import Path

sys.stdout.write(Path("model.onnx").read_text())
