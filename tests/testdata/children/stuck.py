"""A child that never answers, nor ends when it is asked to."""

from __future__ import annotations

import signal
import threading

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Event().wait()
