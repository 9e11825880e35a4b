"""`python -m benchmarks [NAME [OPTIONS]]`: run one benchmark, or all; `NAME --help` lists a benchmark's options."""

from __future__ import annotations

import importlib
import subprocess
import sys

BENCHMARKS = (
    "serving",
    "workers",
    "streams",
    "loading",
    "endurance",
    "ingest",
    "rollups",
    "alerts",
    "profiles",
    "drift",
    "quality",
    "registry",
    "features",
    "transfer",
    "fetching",
    "fetch-jobs",
    "keras-recipe",
)


def main() -> None:
    """Run what is asked for; each benchmark reads its own options."""
    if len(sys.argv) == 1:
        for name in BENCHMARKS:  # in processes of their own: one that keeps to some cores leaves them all to the next
            subprocess.run([sys.executable, "-m", "benchmarks", name], check=True)
        return
    name, *options = sys.argv[1:]
    if name not in BENCHMARKS:
        print(__doc__, f"\nbenchmarks: {', '.join(BENCHMARKS)}")
        raise SystemExit(0 if name in ("-h", "--help") else 2)
    sys.argv = [f"python -m benchmarks {name}", *options]
    importlib.import_module(f"benchmarks.{name.replace('-', '_')}").main()


if __name__ == "__main__":
    main()
