"""A client in twenty lines: `python -m examples.client iris.onnx`, beside a running `penstock up`.

`python -m examples.iris iris.onnx` makes the file, once `make demo` has installed what that needs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

import penstock

Answer = TypeVar("Answer")


def main(path: str) -> None:
    with penstock.Client() as client:
        columns = ("sepal_length", "sepal_width", "petal_length", "petal_width")
        number = time.strftime("%Y%m%d%H%M%S")  # a version is registered once; each run makes its own
        version = client.registry.register_version("flowers", number, path, columns=columns)
        print(f"{version.model} {version.version} is deployment number {version.deployment_number}")
        flower = dict(zip(columns, (5.1, 3.5, 1.4, 0.2), strict=True))
        answer = once_known(lambda: client.inference.predict("flowers", flower, version=number, user_id="ada"))
        print(f"{answer.outputs} with confidence {answer.confidences[0]:.2f}")
        once_known(lambda: client.monitoring.get_inference(answer.inference_id))
        client.monitoring.record_feedback(answer.inference_id, actual_outcome=0)
        metrics = client.monitoring.get_metrics("flowers", number)
        print(f"predictions: {metrics.inference_count}, accuracy: {metrics.accuracy}")


def once_known(ask: Callable[[], Answer]) -> Answer:
    """Ask again for five seconds: a new version reaches inference, and an event monitoring, a moment later."""
    for _ in range(50):
        try:
            return ask()
        except penstock.NotFound:
            time.sleep(0.1)
    return ask()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.client iris.onnx")
    main(sys.argv[1])
