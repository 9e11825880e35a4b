"""The demo's second half: a model's data drifts; it is found, alerted, acknowledged, retrained, and better again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

import penstock
from examples import retraining
from examples.iris import COLUMNS, IrisModel
from examples.telling import check, console, say, step, wait_until
from penstock.api.monitoring.v1.alerts_pb2 import ALERT_STATE_FIRING, Alert
from penstock.api.monitoring.v1.drift_pb2 import DRIFT_STATUS_DRIFTED, DriftResult
from penstock.monitoring import MonitoringClient
from penstock.profiles import Columns

MODEL, VERSION, RULE = "iris", "1.0.0", "drift"
CM_PER_INCH = 2.54
FLOWERS = 110
"""That come in with the new ruler before the retraining; the other 40 judge what came of it."""
QUICK = {
    "PENSTOCK_PROFILE_OPEN_INTERVAL_MS": "500",
    "PENSTOCK_PROFILE_INTERVAL_MS": "500",
    "PENSTOCK_ROLLUP_INTERVAL_MS": "500",
    "PENSTOCK_ALERT_INTERVAL_MS": "500",
    "PENSTOCK_RETRAINING_INTERVAL_MS": "500",
}
"""A demo does not wait as long as a team would."""


def watch(client: penstock.Client, model: IrisModel, accuracy: float) -> None:
    """Play it through; `accuracy` is what the model had before."""
    describe(client.monitoring, model)
    retraining.say_how_to_train(client)
    rows, labels = with_the_new_ruler(model)
    measure_wrongly(client, rows[:FLOWERS], labels[:FLOWERS])
    find(client.monitoring)
    alert = acknowledge(client.monitoring)
    request = ask_for_retraining(client.monitoring, alert)
    run = retraining.follow(client, run_of(client.monitoring, request))
    retraining.promote(client, run)
    retraining.compare(client, run, accuracy, rows[FLOWERS:], labels[FLOWERS:])
    retraining.walk_back(client, run, request)


def describe(monitoring: MonitoringClient, model: IrisModel) -> None:
    """Say what good data look like, what is too much, and when a retraining may be asked for."""
    rows = {name: model.seen[:, number] for number, name in enumerate(COLUMNS)}
    rows["label"] = model.classifier.predict(model.seen)
    profile = step(
        f"Keep what the {len(model.seen)} flowers of the training looked like as the reference of {MODEL} {VERSION}",
        lambda: monitoring.profiles.create(MODEL, VERSION, rows, columns=Columns(predictions=("label",))),
    )
    say(f"{profile.feature_count} features and outputs of {profile.row_count} rows")
    # In place of the rule of this name that all models have.
    rule = monitoring.alert_rules.create(
        RULE, "effect", ">", 0.2, window="7d", severity="critical", model=MODEL, description="Call a botanist."
    )
    # A check a week may be wrong in 5 % of cases. One every 6 hours, of which none is to be wrong in a quarter, asks
    # for more flowers than a demo has.
    monitoring.configurations.change(
        {"drift": {"interval": "7d"}, "retraining": {"min_labels": 100}}, model=MODEL, note="a demo has few flowers"
    )
    say(f"rule {rule.name!r}: {rule.condition}")


def with_the_new_ruler(model: IrisModel) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Measure the petals of all flowers with a ruler that counts inches, in an order that is drawn."""
    order = np.random.default_rng(7).permutation(len(model.rows) + len(model.seen))
    rows = np.vstack([model.rows, model.seen])[order]
    rows[:, COLUMNS.index("petal_length")] /= CM_PER_INCH
    return rows, np.concatenate([model.labels, model.seen_labels])[order]


def measure_wrongly(client: penstock.Client, rows: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Predict flowers that were measured wrongly, and say what they really were."""
    console.print(f"[cyan]▸[/] Somebody has a new ruler: {FLOWERS} flowers come in with their petals in inches")
    for number, (measured, label) in enumerate(zip(rows, labels, strict=True)):
        flower = dict(zip(COLUMNS, map(float, measured), strict=True))
        answer = client.inference.predict(MODEL, flower, user_id=f"botanist-{number % 40}")
        client.monitoring.record_feedback(answer.inference_id, actual_outcome=int(label))


def find(monitoring: MonitoringClient) -> None:
    """Compare the last day with the reference, once all flowers are counted."""
    wait_until(
        lambda: monitoring.drift.check(MODEL, VERSION).live_count >= FLOWERS,
        "the flowers do not reach the live profile",
    )
    drift = step(
        "Compare them with the reference, as the schedule would in time",
        lambda: monitoring.drift.check(MODEL, VERSION, as_scheduled=True),
    )
    if drift.status != DRIFT_STATUS_DRIFTED:
        raise SystemExit(f"no drift was found: {drift.summary}")
    say(drift.summary)
    worst = next(result for result in drift.results if result.feature == "petal_length")
    check("features compared", len({result.feature for result in drift.results} & set(COLUMNS)), len(COLUMNS))
    console.print(bars(worst))


def bars(result: DriftResult) -> Table:
    """Draw both distributions of a feature."""
    table = Table("cm", "reference", "now", title=f"{result.feature}: effect {result.effect:.2f} PSI")
    for each in result.bins:
        if each.reference_share or each.live_share:
            table.add_row(each.label, _bar(each.reference_share, "cyan"), _bar(each.live_share, "magenta"))
    return table


def _bar(share: float, style: str) -> Text:
    return Text.assemble(("█" * round(share * 30), style), f" {share:.0%}")


def acknowledge(monitoring: MonitoringClient) -> Alert:
    """Wait until the rule fires, and take it in hand."""

    def firing() -> list[Alert]:
        found = monitoring.alerts.list(model=MODEL, states=[ALERT_STATE_FIRING])
        return [alert for alert in found if alert.rule_name == RULE]

    wait_until(lambda: bool(firing()), "the alert does not fire")
    (alert,) = firing()
    console.print(f"[cyan]▸[/] The rule fires: [bold red]{alert.message}[/]")
    taken = monitoring.alerts.acknowledge(alert.id, note="the ruler is being looked for")
    say(f"acknowledged by {taken.acknowledged_by or 'the demo'}: {taken.acknowledge_note}")
    return taken


def ask_for_retraining(monitoring: MonitoringClient, alert: Alert) -> str:
    """Show the request that the drift has raised, approve it, and walk back from it to the version; gives its id."""
    wait_until(lambda: bool(list(monitoring.retraining.list(model=MODEL))), "no retraining is asked for")
    (wish,) = monitoring.retraining.list(model=MODEL)
    console.print(f"[cyan]▸[/] A retraining is asked for, since {wish.label_count} flowers have a label by now")
    approved = monitoring.retraining.approve(wish.id, note="with a better ruler")
    say(f"approved; {approved.message}")
    graph = monitoring.lineage.of_retraining_request(wish.id)
    for edge in graph.edges:
        say(f"{graph.nodes[edge.from_node].title} → {edge.relation} → {graph.nodes[edge.to_node].title}")
    led_to_it = {node.id for node in graph.nodes} & {f"{MODEL}/{VERSION}", wish.check_id, wish.id}
    check("version, check and request hang together", len(led_to_it), 3)
    answered = {node.id for node in monitoring.lineage.of_alert(alert.id).nodes}
    check("the alert leads to the version that answered", len(answered & {f"{MODEL}/{VERSION}"}), 1)
    return wish.id


def run_of(monitoring: MonitoringClient, request: str) -> str:
    """Wait until the trainer has taken what was approved; gives the run's id."""
    wait_until(lambda: bool(monitoring.retraining.get(request).training_run_id), "the trainer does not take it")
    return monitoring.retraining.get(request).training_run_id
