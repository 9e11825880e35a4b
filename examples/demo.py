"""The main job, end to end, on real input: train, register, serve, predict, score, roll out and back, watch, retrain.

`make demo` runs it on a suite of its own, in a temporary folder and on free ports, and leaves nothing behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import penstock
from examples.iris import COLUMNS, IrisModel, train
from examples.telling import check, console, say, step, wait_until
from examples.watching import QUICK, watch
from penstock.api.monitoring.v1.monitoring_pb2 import GetMetricsResponse
from penstock.api.registry.v1.registry_pb2 import STAGE_STAGING, STAGE_UNSPECIFIED, Stage
from penstock.cli.embedded.folder import DataFolder
from services.inference.oip import open_inference_pb2 as oip
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub

PENSTOCK = Path(sys.executable).with_name("penstock")
FREE_PORTS = {
    f"PENSTOCK_{name}_PORT": "0"
    for name in (
        "REGISTRY",
        "REGISTRY_METRICS",
        "INFERENCE",
        "INFERENCE_METRICS",
        "JOBS",
        "JOBS_METRICS",
        "MONITORING",
        "MONITORING_METRICS",
        "FETCHER",
        "FETCHER_METRICS",
        "TRAINER",
        "TRAINER_METRICS",
        "POSTGRES",
    )
}


def main() -> None:
    """Play it through, and say how long that took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder, suite(Path(folder)) as addresses:
        model = step(
            "Train a logistic regression on the iris data, export it by skl2onnx", lambda: train(regularisation=1)
        )
        with penstock.Client(
            registry=addresses["registry"],
            inference=addresses["inference"],
            monitoring=addresses["monitoring"],
            trainer=addresses["trainer"],
        ) as client:
            release(client, model, "1.0.0")
            predictions = predict(client, model)
            predict_by_open_inference(addresses["inference"], model)
            accuracy = score(client, model, predictions)
            roll_out_and_back(client, model)
            watch(client, model, accuracy)
    console.print(f"[cyan]▸[/] All of it took {time.monotonic() - began:.0f} s, and nothing of it is left")


@contextmanager
def suite(folder: Path) -> Iterator[dict[str, str]]:
    """Run `penstock up` for the block; gives where the services listen."""
    environment = {**os.environ, **FREE_PORTS, **QUICK}
    console.rule("[bold]penstock up")
    up = [str(PENSTOCK), "up", "--detach", "--data-dir", str(folder)]
    subprocess.run(up, env=environment, stdout=subprocess.DEVNULL, check=True)  # its advice is for suites that stay
    try:
        state = DataFolder(folder).find_running()
        if state is None:
            sys.exit("the suite is not running")
        for name, address in sorted(state.addresses.items()):
            say(f"{name} listens on {address}")
        yield state.addresses
    finally:
        console.rule("[bold]penstock down")
        subprocess.run([PENSTOCK, "down", "--data-dir", folder], env=environment, check=True)


def release(client: penstock.Client, model: IrisModel, version: str) -> None:
    """Upload a version and put it into production."""
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(model.onnx)
        file.flush()
        registered = step(
            f"Register iris {version} ({len(model.onnx):,} bytes over gRPC), validated in a sandbox",
            lambda: client.registry.register_version(
                "iris", version, Path(file.name), stage=STAGE_STAGING, columns=COLUMNS
            ),
        )
    validation = registered.validation
    say(f"opset {validation.opset}, by {validation.producer}, rows independent: {validation.rows_independent}")
    step(
        f"Promote iris {version} to PRODUCTION",
        lambda: client.registry.promote("iris", version, approved_by="the demo", note="it is the demo's own"),
    )
    wait_until_live(client, version)


def predict(client: penstock.Client, model: IrisModel) -> dict[str, int]:
    """Predict each held-out row by Predict, and compare with scikit-learn; gives the labels by inference id."""
    predictions: dict[str, int] = {}
    agree = 0
    expected = model.classifier.predict(model.rows)
    probabilities = model.classifier.predict_proba(model.rows)
    console.print(f"[cyan]▸[/] Predict {len(model.rows)} held-out flowers through Predict, features by name")
    for index, row in enumerate(model.rows):
        flower = dict(zip(COLUMNS, map(float, row), strict=True))
        answer = client.inference.predict("iris", flower, user_id=f"botanist-{index % 3}")
        label = int(answer.outputs["label"][0])
        agree += label == expected[index] and bool(
            np.allclose(answer.outputs["probabilities"][0], probabilities[index], atol=1e-5)
        )
        predictions[answer.inference_id] = int(model.labels[index])
    check("answers equal scikit-learn's own", agree, len(model.rows))
    return predictions


def predict_by_open_inference(address: str, model: IrisModel) -> None:
    """Predict them all in one request through the Open Inference Protocol, and compare with scikit-learn."""
    console.print("[cyan]▸[/] Predict them again in one request through the Open Inference Protocol")
    with grpc.insecure_channel(address) as channel:
        request = oip.ModelInferRequest(model_name="iris", raw_input_contents=[model.rows.tobytes()])
        request.inputs.add(name="X", datatype="FP32", shape=model.rows.shape)
        request.outputs.add(name="label")
        response = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    labels: NDArray[np.int64] = np.frombuffer(response.raw_output_contents[0], dtype="<i8")
    check("answers equal scikit-learn's own", int((labels == model.classifier.predict(model.rows)).sum()), len(labels))


def score(client: penstock.Client, model: IrisModel, predictions: dict[str, int]) -> float:
    """Tell monitoring what the flowers really were, and ask how good the model is; gives its accuracy."""
    console.print(f"[cyan]▸[/] Send the true species of {len(predictions)} flowers as feedback")
    for inference_id, label in predictions.items():
        client.monitoring.record_feedback(inference_id, actual_outcome=label)
    metrics = wait_until_counted(client, len(predictions) + 1)
    show(metrics)
    real = float((model.classifier.predict(model.rows) == model.labels).mean())
    check("rows judged right, as counted here", metrics.correct_count, round(real * len(predictions)))
    return metrics.accuracy


def roll_out_and_back(client: penstock.Client, model: IrisModel) -> None:
    """Put a second version into production, see it answer, roll back, and see the first one answer."""
    release(client, train(regularisation=100), "2.0.0")
    flower = [float(value) for value in model.rows[0]]
    say(f"iris {client.inference.predict('iris', {'X': flower}).version} answers now")
    step("Roll back", lambda: client.registry.rollback("iris", approved_by="the demo", note="the first was fine"))
    wait_until_live(client, "1.0.0")
    say(f"iris {client.inference.predict('iris', {'X': flower}).version} answers again")
    table = Table("when", "version", "from", "to", "by", "note", title="history of iris")
    for move in client.registry.transitions("iris"):
        table.add_row(
            move.promoted_time.ToDatetime().strftime("%H:%M:%S"),
            move.version,
            stage(move.from_stage),
            stage(move.to_stage),
            move.promoted_by,
            move.note,
        )
    console.print(table)


def stage(value: Stage.ValueType) -> str:
    """Name a stage as people do."""
    return "" if value == STAGE_UNSPECIFIED else Stage.Name(value).removeprefix("STAGE_").lower()


def wait_until_live(client: penstock.Client, version: str) -> None:
    """Wait until inference, which follows the registry by itself, answers with this version."""
    flower = [5.1, 3.5, 1.4, 0.2]
    wait_until(lambda: answering(client, flower) == version, f"inference does not follow to {version}")


def answering(client: penstock.Client, flower: list[float]) -> str:
    """Say which version answers; empty where none does yet."""
    try:
        return client.inference.predict("iris", {"X": flower}).version
    except penstock.NotFound:
        return ""


def wait_until_counted(client: penstock.Client, at_least: int) -> GetMetricsResponse:
    """Wait until monitoring has the events, which reach it by the spool, and give its metrics."""
    wait_until(
        lambda: client.monitoring.get_metrics("iris").inference_count >= at_least, "the events do not reach monitoring"
    )
    return client.monitoring.get_metrics("iris")


def show(metrics: GetMetricsResponse) -> None:
    """Print the metrics as a table."""
    table = Table("metric", "value", title="metrics of iris")
    table.add_row("predictions", str(metrics.inference_count))
    table.add_row("error rate", f"{metrics.error_rate:.1%}")
    table.add_row(
        "latency p50 / p95 / p99",
        " / ".join(
            f"{value:.2f} ms" for value in (metrics.p50_latency_ms, metrics.p95_latency_ms, metrics.p99_latency_ms)
        ),
    )
    table.add_row("average confidence", f"{metrics.average_confidence:.3f}")
    table.add_row("accuracy", f"{metrics.accuracy:.1%} of {metrics.judged_count} judged")
    console.print(table)


if __name__ == "__main__":
    main()
