"""Report the coverage of the last run, and fail below the floors that the project keeps."""

from __future__ import annotations

import io
import sys

from coverage import Coverage

# Percent of lines and branches. What decides (state machines, the engine's seam) is covered whole.
FLOORS = {
    "services/*,sdk/python/src/penstock/*": 90.0,
    "services/registry/stages.py": 100.0,
    "services/registry/models.py": 100.0,
    "services/monitoring/alerts/life.py": 100.0,
    "services/monitoring/retraining/states.py": 100.0,
    "services/inference/engine/engine.py": 100.0,
    "services/inference/engine/lane.py": 100.0,
    "services/inference/engine/waiting.py": 100.0,
}


def main() -> None:
    """Print the table, and compare."""
    coverage = Coverage()
    coverage.load()
    coverage.report(file=sys.stdout)
    short = []
    for patterns, floor in FLOORS.items():
        found = coverage.report(include=patterns.split(","), file=io.StringIO())
        print(f"{found:6.2f} % of {patterns} (at least {floor:.0f} %)")
        if found < floor:
            short.append(patterns)
    if short:
        sys.exit(f"coverage is below its floor: {', '.join(short)}")


if __name__ == "__main__":
    main()
