"""NannyML's default univariate drift on windows; run in an environment of its own, with the path of their folder.

Prints a JSON object: the columns that raised an alert by each window's file, and the seconds of processor that took.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

warnings.simplefilter("ignore")

import nannyml  # noqa: E402


def frame(path: Path) -> pd.DataFrame:
    """Read a window: numbers, and kinds by their names."""
    with np.load(path, allow_pickle=False) as arrays:
        return pd.DataFrame({name: arrays[name] for name in arrays.files})


folder = Path(sys.argv[1])
reference = frame(folder / "reference.npz")
paths = sorted(folder.glob("window_*.npz"))
windows = [frame(path) for path in paths]
columns = list(reference.columns)
began = time.process_time()
calculator = nannyml.UnivariateDriftCalculator(column_names=columns, chunk_size=len(windows[0]))
calculator.fit(reference)
table = calculator.calculate(pd.concat(windows, ignore_index=True)).filter(period="analysis").to_df()
alerts = {column[0]: table[column].to_list() for column in table.columns if column[-1] == "alert"}
found = {path.stem: [name for name in alerts if alerts[name][place]] for place, path in enumerate(paths)}
print(json.dumps({"drifted": found, "seconds": time.process_time() - began}))
