"""Rows to learn from: scikit-learn's breast cancer data, 569 tumours of 30 measures each, as CSV."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer


def write(path: Path) -> None:
    """Write them with a header; the column `label` says what each tumour was."""
    data = load_breast_cancer()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(name.replace(" ", "_") for name in data.feature_names), "label"])
        for row, label in zip(data.data, data.target, strict=True):
            writer.writerow([*map(float, row), data.target_names[label]])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.tumours tumours.csv")
    write(Path(sys.argv[1]))
