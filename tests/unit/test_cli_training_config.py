"""`penstock model set` on how a model is trained, and `penstock lineage` on how a version did and where it moved."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from rich.text import Text

from penstock.api.monitoring.v1 import lineage_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.__main__ import run
from penstock.cli.lineage import tree_of
from penstock.cli.output import Output
from penstock.values import from_value, to_struct
from tests.sdk import ScriptedServer, answer, scripted_server

CRITERION = pb.SuccessCriterion(metric="accuracy", comparison=pb.COMPARISON_AT_LEAST, threshold=0.9)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        monkeypatch.setenv("PENSTOCK_REGISTRY_ADDRESS", server.address)
        monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
        config = pb.TrainingConfig(
            recipe="sklearn", data_source="flowers", parameters=to_struct({"a": 1}), success_criteria=[CRITERION]
        )
        server.on(
            "GetModel", answer(pb.GetModelResponse(model=pb.Model(name="iris", etag="e", training_config=config)))
        )
        server.on("UpdateModel", answer(pb.UpdateModelResponse(model=pb.Model(name="iris"))))
        yield server


def test_what_a_recipe_is_told_takes_the_place_of_all_that_it_was_told(server: ScriptedServer) -> None:
    assert run(["model", "set", "iris", "--recipe", "keras-mlp", "--param", "hidden=[8,4]", "--param", "name=a=b"]) == 0
    (sent,) = server.calls["UpdateModel"]
    config = sent.model.training_config
    assert {name: from_value(value) for name, value in config.parameters.fields.items()} == {
        "hidden": [8, 4],
        "name": "a=b",
    }
    assert (config.recipe, config.data_source, list(config.success_criteria)) == ("keras-mlp", "flowers", [CRITERION])
    assert (sent.model.etag, list(sent.update_mask.paths)) == ("e", ["training_config"])


def test_a_model_is_shown_with_what_its_recipe_is_told(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["model", "get", "iris"]) == 0
    assert ["told", "a=1"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_only_what_is_named_changes_and_nothing_takes_parameters_away(server: ScriptedServer) -> None:
    assert run(["model", "set", "iris", "--data-source", "traffic:7d"]) == 0
    assert run(["model", "set", "iris", "--param", "", "--recipe", ""]) == 0
    first, second = [request.model.training_config for request in server.calls["UpdateModel"]]
    assert (first.recipe, first.data_source, first.parameters["a"]) == ("sklearn", "traffic:7d", 1)
    assert (second.recipe, second.data_source, dict(second.parameters)) == ("", "flowers", {})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--param", "x"], "'x' is not of the form NAME=VALUE"),
        (["1.0.0", "--recipe", "sklearn"], "leave VERSION out"),
    ],
)
def test_how_to_train_is_of_the_model_and_has_names(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["model", "set", "iris", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not server.calls


def test_an_evaluation_says_whether_it_passed_and_a_move_where_to(capsys: pytest.CaptureFixture[str]) -> None:
    node = lineage_pb2.LineageNode
    nodes = [
        node(kind=lineage_pb2.LINEAGE_KIND_VERSION, id="iris/2", title="Version 2 of iris"),
        node(kind=lineage_pb2.LINEAGE_KIND_EVALUATION, id="41", title="An evaluation of iris 2"),
        node(kind=lineage_pb2.LINEAGE_KIND_EVALUATION, id="42", title="An evaluation of iris 2"),
        node(kind=lineage_pb2.LINEAGE_KIND_TRANSITION, id="7", title="iris 2 to STAGING"),
    ]
    nodes[1].attributes.update({"passed": "no", "accuracy": "0.5", "shortfalls": "accuracy is 0.5, and not 0.9"})
    nodes[2].attributes.update({"passed": "yes"})
    nodes[3].attributes.update({"from_stage": "CANDIDATE", "to_stage": "STAGING", "approved_by": "ada"})
    for each in nodes:
        each.time.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    relations = ("was evaluated", "was evaluated", "moved")
    edges = [
        lineage_pb2.LineageEdge(from_node=0, to_node=number, relation=relation)
        for number, relation in enumerate(relations, 1)
    ]
    at = f"{datetime(2026, 1, 2, tzinfo=UTC).astimezone():%Y-%m-%d %H:%M}"
    tree = tree_of(lineage_pb2.GetLineageResponse(nodes=nodes, edges=edges))
    Output(as_json=False, no_color=True).answer({}, tree)
    said = [line.lstrip("│├└─ ") for line in Text.from_ansi(capsys.readouterr().out).plain.splitlines()]
    assert said[1:] == [
        f"↓ was evaluated  An evaluation of iris 2  {at}  not passed",
        "accuracy is 0.5, and not 0.9",
        "accuracy=0.5",
        f"↓ was evaluated  An evaluation of iris 2  {at}  passed",
        f"↓ moved  iris 2 to STAGING  {at}",
        "approved_by=ada, from_stage=CANDIDATE",
    ]
