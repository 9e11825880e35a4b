"""Evidently's default drift preset on windows; run in an environment of its own, with the path of a folder of windows.

Prints a JSON object: the columns that drifted, by the window's file, and the seconds of processor that took.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset


def frame(path: Path) -> pd.DataFrame:
    """Read a window: numbers, and kinds by their names."""
    with np.load(path, allow_pickle=False) as arrays:
        return pd.DataFrame({name: arrays[name] for name in arrays.files})


def drifted_columns(report: dict) -> list[str]:
    """Name the columns that the preset calls drifted: by distance where it is at least, by p where it is below."""
    found = []
    for metric in report["metrics"]:
        config = metric.get("config", {})
        if "column" not in config or not isinstance(metric["value"], (int, float)):
            continue
        value, threshold = float(metric["value"]), float(config["threshold"])
        by_p = "p_value" in config["method"] or "p-value" in config["method"]
        if value < threshold if by_p else value >= threshold:
            found.append(config["column"])
    return found


folder = Path(sys.argv[1])
reference = frame(folder / "reference.npz")
windows = {path.stem: frame(path) for path in sorted(folder.glob("window_*.npz"))}
found, began = {}, time.process_time()
for name, window in windows.items():
    found[name] = drifted_columns(Report([DataDriftPreset()]).run(window, reference).dict())
print(json.dumps({"drifted": found, "seconds": time.process_time() - began}))
