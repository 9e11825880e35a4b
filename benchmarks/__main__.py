"""`python -m benchmarks [NAME] [OPTIONS]`: run one benchmark, or all; `NAME --help` lists a benchmark's options."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = ("iris", "ingest")


def main() -> None:
    """Run what is asked for; each benchmark reads its own options."""
    names, options = (sys.argv[1:2], sys.argv[2:]) if len(sys.argv) > 1 else (list(BENCHMARKS), [])
    for name in names:
        if name not in BENCHMARKS:
            print(__doc__, f"\nbenchmarks: {', '.join(BENCHMARKS)}")
            raise SystemExit(0 if name in ("-h", "--help") else 2)
        sys.argv = [f"python -m benchmarks {name}", *options]
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
