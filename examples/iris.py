"""The iris models of the demo: scikit-learn's own data, a logistic regression, exported by skl2onnx."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


@dataclass(frozen=True)
class IrisModel:
    """A trained model, its ONNX file, the 38 rows that it has not seen, and the 112 that it has, with their labels."""

    classifier: Any
    onnx: bytes
    rows: NDArray[np.float32]
    labels: NDArray[np.int64]
    seen: NDArray[np.float32]
    seen_labels: NDArray[np.int64]


def train(*, regularisation: float) -> IrisModel:
    """Train on three quarters of the data; `regularisation` is scikit-learn's C."""
    data = load_iris()
    features = data.data.astype(np.float32)
    seen, held_out, seen_labels, labels = train_test_split(
        features, data.target, test_size=0.25, random_state=7, stratify=data.target
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=regularisation, max_iter=500))
    classifier.fit(seen, seen_labels)
    graph = to_onnx(classifier, features[:1], options={"zipmap": False}, target_opset=17)
    return IrisModel(
        classifier, graph.SerializeToString(), held_out, labels.astype(np.int64), seen, seen_labels.astype(np.int64)
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.iris iris.onnx")
    Path(sys.argv[1]).write_bytes(train(regularisation=1).onnx)
