"""What the tables of `penstock validate` show."""

from __future__ import annotations

from penstock.api.trainer.v1 import validations_pb2 as pb
from penstock.cli.output import Output
from penstock.cli.validate_views import history_table, metrics_table, sentences, validation_facts, verdict_of

COMPLETED = pb.VALIDATION_STATE_COMPLETED
ACCURACY = pb.ValidationMetric(
    name="accuracy", value=0.925, live_value=0.9, difference=0.025, difference_low=-0.01, difference_high=0.06
)


def shown(*parts: object) -> list[str]:
    return [line for part in parts for line in str(part).splitlines()]


def test_a_criterion_stands_in_the_row_of_what_it_bounds() -> None:
    validation = pb.Validation(
        state=COMPLETED,
        metrics=[
            ACCURACY,
            pb.ValidationMetric(name="latency_p95_ms", value=1.5),
            pb.ValidationMetric(name="size_bytes", value=2_048),
            pb.ValidationMetric(name="f1[cat]", value=0.5),
            pb.ValidationMetric(name="f1[dog]", value=0.5),
        ],
        criteria=[
            pb.ValidationCriterion(metric="accuracy", at_least=0.9, value=0.925, met=True),
            pb.ValidationCriterion(metric="accuracy_vs_live_low", at_least=-0.005, value=-0.01),
            pb.ValidationCriterion(metric="latency_p95_ms", at_most=20, value=1.5, met=True),
            pb.ValidationCriterion(metric="f1[dog]", at_least=0.4, value=0.5, met=True),
            pb.ValidationCriterion(metric="rmse", at_most=1),
        ],
    )
    table = shown(metrics_table(Output(as_json=False, no_color=True), validation))
    header, accuracy, low, dog, latency, rmse, size = (line.split() for line in table)
    assert header[:3] == ["METRIC", "CANDIDATE", "LIVE"]
    assert accuracy == ["accuracy", "0.925", "0.9", "+0.025", "-0.01", "…", "+0.06", "≥", "0.9", "yes"]
    assert low == ["low", "end", "≥", "-0.005", "no"]
    assert dog[:2] == ["f1[dog]", "0.5"], "of single classes only what is bounded is shown"
    assert latency == ["latency_p95_ms", "1.5", "ms", "≤", "20", "ms", "yes"]
    assert rmse == ["rmse", "not", "measured", "≤", "1", "no"]
    assert size == ["size_bytes", "2.0", "KiB"]


def test_a_verdict_is_on_the_version_or_on_the_validation() -> None:
    assert verdict_of(pb.Validation(state=COMPLETED, passed=True)) == "passed"
    assert verdict_of(pb.Validation(state=COMPLETED, passed=False)) == "not passed"
    assert verdict_of(pb.Validation(state=pb.VALIDATION_STATE_FAILED)) == "failed"
    assert verdict_of(pb.Validation(state=pb.VALIDATION_STATE_QUEUED)) == "queued"


def test_what_others_wrote_moves_no_cursor() -> None:
    hostile = pb.Validation(
        id="1",
        model="m\x1b[2J",
        version="1",
        state=COMPLETED,
        note="\x1b[31m",
        shortfalls=["\x1b[0m is 1"],
        notes=["\x07"],
    )
    output = Output(as_json=False, no_color=True)
    with output.stdout.capture() as captured:
        output.answer(
            {}, validation_facts(output, hostile), metrics_table(output, hostile), *sentences(hostile),
            history_table(output, [hostile]),
        )  # fmt: skip
    assert "\x1b" not in captured.get()
    assert "\x07" not in captured.get()
