"""A client in twenty lines. Start the suite with `penstock up`, run the demo's training or bring your own model."""

from __future__ import annotations

import sys

import penstock


def main(path: str) -> None:
    with penstock.Client() as client:
        columns = ("sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm")
        version = client.registry.register_version("iris", "1.0.0", path, columns=columns)
        print(f"{version.model} {version.version} is number {version.deployment_number}")
        flower = dict(zip(columns, (5.1, 3.5, 1.4, 0.2), strict=True))
        answer = client.inference.predict("iris", flower, user_id="ada")
        print(f"{answer.outputs} with confidence {answer.confidences[0]:.2f}")
        client.monitoring.record_feedback(answer.inference_id, actual_outcome=0)
        metrics = client.monitoring.get_metrics("iris")
        print(f"{metrics.inference_count} predictions, accuracy {metrics.accuracy}")


if __name__ == "__main__":
    main(sys.argv[1])
