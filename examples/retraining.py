"""The demo's last part: what was approved is trained on live traffic, tried, promoted, and judged by new flowers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import penstock
from examples.iris import COLUMNS
from examples.telling import check, console, say, step, wait_until
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.trainer.v1.training_pb2 import TRAINING_RUN_STATE_COMPLETED, TrainingRun
from penstock.values import to_struct

MODEL = "iris"
LEAST_ACCURACY = 0.8


def say_how_to_train(client: penstock.Client) -> None:
    """Say once how the model is trained, from what, and what a version must reach before it may go on."""
    criteria = [
        registry.SuccessCriterion(metric=metric, comparison=registry.COMPARISON_AT_LEAST, threshold=threshold)
        for metric, threshold in (("accuracy", LEAST_ACCURACY), ("accuracy_vs_live", 0.0))
    ]
    config = registry.TrainingConfig(
        recipe="sklearn",
        parameters=to_struct({"estimator": "RandomForestClassifier", "estimator_parameters": {"random_state": 7}}),
        data_source="traffic",
        success_criteria=criteria,
    )
    client.registry.update_model(MODEL, training_config=config)
    console.print("[cyan]▸[/] Say how iris is trained: a random forest, on labelled live traffic")
    say(f"a version must reach an accuracy of {LEAST_ACCURACY:.0%} on rows held out, and what is live there")


def follow(client: penstock.Client, run_id: str) -> TrainingRun:
    """Show the run that the approval has begun, until it has made a version and tried it."""
    run = TrainingRun()

    def watched() -> None:
        nonlocal run
        said = ""
        for answer in client.training.watch_run(run_id):
            run = answer.run
            if run.message and run.message != said:
                said = run.message
                say(said)

    step("Retrain, as a run of the trainer that answers the request", watched)
    if run.state != TRAINING_RUN_STATE_COMPLETED or not run.validation_passed:
        raise SystemExit(f"the retraining did not do it: {run.message} {'; '.join(run.shortfalls)}")
    say(f"dataset {run.dataset}: {run.train_count} rows to learn from, {run.test_count} held out")
    return run


def promote(client: penstock.Client, run: TrainingRun) -> None:
    """Have a person put it into production, which its passed validation allows."""
    version = run.new_version
    client.registry.promote(MODEL, version, "STAGING", note="its validation passed")
    step(
        f"Promote {MODEL} {version} to PRODUCTION",
        lambda: client.registry.promote(
            MODEL, version, "PRODUCTION", approved_by="ada", note="better with the new ruler"
        ),
    )
    flower = dict(zip(COLUMNS, (5.1, 3.5, 1.4, 0.2), strict=True))
    wait_until(
        lambda: client.inference.predict(MODEL, flower).version == version,
        f"inference does not follow to {version}",
    )


def compare(
    client: penstock.Client, run: TrainingRun, before: float, rows: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    """Judge both versions by flowers that neither has seen with the new ruler, and show how it went."""
    old = _accuracy(client, run.parent_version, rows, labels)
    new = _accuracy(client, run.new_version, rows, labels)
    table = Table("when", "version", "accuracy", title="iris, before, during and after")
    table.add_row("before the new ruler", run.parent_version, f"{before:.1%}")
    table.add_row(f"with it, {len(rows)} new flowers", run.parent_version, f"[red]{old:.1%}[/]")
    table.add_row(f"the same {len(rows)}, retrained", run.new_version, f"[green]{new:.1%}[/]")
    console.print(table)
    check("the retrained version is the better one", int(new > old), 1)


def walk_back(client: penstock.Client, run: TrainingRun, request_id: str) -> None:
    """Show in one call what led to the new version."""
    graph = client.monitoring.lineage.of_retraining_request(request_id)
    for edge in graph.edges:
        say(f"{graph.nodes[edge.from_node].title} → {edge.relation} → {graph.nodes[edge.to_node].title}")
    wanted = {run.id, run.dataset, f"{MODEL}/{run.new_version}", request_id}
    check("request, run, dataset and version hang together", len(wanted & {node.id for node in graph.nodes}), 4)


def _accuracy(client: penstock.Client, version: str, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Predict rows by one version, and count those that it has right."""
    columns = {name: [float(value) for value in rows[:, number]] for number, name in enumerate(COLUMNS)}
    answer = client.inference.predict(MODEL, columns, version=version)
    said = np.asarray(answer.outputs["label"]).reshape(-1)
    return float((said.astype(str) == labels.astype(str)).mean())
