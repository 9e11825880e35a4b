"""Stands for a worker whose first life has a run that nothing ends; for its supervisor alone, without any service."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

from services.inference.workers.place import Place
from services.inference.workers.wires import Wire, message


def main() -> None:
    """Answer every ping until told to end."""
    place = Place.from_environment()
    place.take()
    lived = Path(f"lived-{place.number}")
    stuck = place.number == 0 and not lived.exists()
    lived.touch()
    wire = Wire(place.wire)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    wire.send(message({"type": "join"}))

    def answer() -> None:
        for _, payload in wire.frames():
            if json.loads(payload)["type"] == "ping":
                wire.send(message({"type": "pong", "ready": True, "stuck": int(stuck)}))

    threading.Thread(target=answer, daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
