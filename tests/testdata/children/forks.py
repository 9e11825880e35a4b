"""Leaves a process behind that holds on to its pipes; the file that it is given names where to write its id."""

from __future__ import annotations

import os
import signal
from pathlib import Path

pid_file = Path(Path("model.onnx").read_text())
if pid := os.fork():
    pid_file.write_text(str(pid))
else:
    while True:
        signal.pause()
