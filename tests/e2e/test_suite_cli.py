"""`penstock` on real input: an iris classifier from its file to its accuracy, and keys on a suite that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.iris import COLUMNS, train
from tests.embedded import all_gone, eventually
from tests.suite import RunningSuite, start_suite

pytestmark = pytest.mark.slow
__all__ = ["start_suite"]


def test_an_iris_model_is_registered_served_scored_rolled_out_and_back(
    tmp_path: Path, start_suite: Callable[[Path], RunningSuite]
) -> None:
    suite = start_suite(tmp_path / "data")
    assert {each["state"] for each in suite.json("status")["services"]} == {"healthy"}
    model = train(regularisation=1)
    (tmp_path / "iris.onnx").write_bytes(model.onnx)

    register = ("model", "register", "iris", "iris.onnx", "--columns", ",".join(COLUMNS), "--version")
    registered = suite.json(*register, "1.0.0")
    assert (registered["state"], registered["framework"]) == ("ready", "onnx")
    assert registered["signature"]["inputs"][0]["columns"] == list(COLUMNS)
    assert refusal(suite, "model", "rollback", "iris", "--note", "back") == (1, "NOTHING_LIVE")
    suite.json("model", "promote", "iris", "1.0.0", "--to", "production", "--note", "first")
    assert refusal(suite, "model", "rollback", "iris", "--note", "back") == (1, "NO_PREDECESSOR")

    flowers = [dict(zip(COLUMNS, map(float, row), strict=True)) for row in model.rows]
    (tmp_path / "flowers.json").write_text(json.dumps(flowers))
    eventually(lambda: suite.run("predict", "iris", json.dumps(flowers[0])).returncode == 0)
    prediction = suite.json("predict", "iris", "@flowers.json", "--user", "botanist")
    assert prediction["outputs"]["label"] == model.classifier.predict(model.rows).tolist()
    assert len(prediction["confidences"]) == len(flowers)

    eventually(lambda: len(suite.json("events", "--user", "botanist")) == 1)
    judged = 5
    for row in range(judged):
        label = str(model.labels[row])
        assert suite.json("feedback", prediction["inference_id"], "--row", str(row), "--outcome", label)["matched"]
    metrics = suite.json("metrics", "iris", "--version", "1.0.0")
    right = int((model.classifier.predict(model.rows[:judged]) == model.labels[:judged]).sum())
    assert (metrics["judged_count"], metrics["accuracy"]) == (judged, right / judged)
    assert metrics["error_count"] == 0

    suite.json(*register, "1.1.0")
    suite.json("model", "promote", "iris", "1.1.0", "--to", "production", "--note", "second")
    assert [each["stage"] for each in suite.json("model", "versions", "iris")] == ["production", "archived"]
    suite.json("model", "rollback", "iris", "--note", "the first was fine")
    assert suite.json("model", "get", "iris", "production")["version"] == "1.0.0"
    latest = suite.json("model", "history", "iris")[0]
    assert (latest["version"], latest["note"]) == ("1.0.0", "the first was fine")
    suite.json("model", "download", "iris", "1.1.0", "--to", "copy")
    assert (tmp_path / "copy" / "iris.onnx").read_bytes() == model.onnx

    assert suite.run("down").returncode == 0
    assert all_gone(suite.started)


def test_keys_are_made_needed_weighed_and_revoked_while_the_suite_runs(
    tmp_path: Path, start_suite: Callable[[Path], RunningSuite]
) -> None:
    suite = start_suite(tmp_path / "data")
    (tmp_path / "iris.onnx").write_bytes(train(regularisation=1).onnx)
    tokens = {
        role: suite.json("key", "create", role, "--role", role)["token"] for role in ("admin", "viewer", "operator")
    }
    plain = suite.run("key", "create", "ada", "--role", "viewer").stdout.strip()
    as_role = {role: {"PENSTOCK_TOKEN": token} for role, token in tokens.items()}
    for command in (["model", "list"], ["events"], ["metrics", "iris"]):  # each service looks by itself
        eventually(lambda command=command: refusal(suite, *command) == (5, "MISSING_KEY"))  # type: ignore[misc]
    eventually(lambda: refusal(suite, "model", "list", "--token", plain) == (0, ""))  # the last that was made

    assert suite.json("model", "list", "--token", plain) == suite.json("model", "list", PENSTOCK_TOKEN=plain) == []
    register = ("model", "register", "iris", "iris.onnx", "--version", "1")
    assert refusal(suite, *register, "--token", plain) == (5, "ROLE_TOO_WEAK")
    suite.json("key", "revoke", "ada")
    suite.json(*register, **as_role["operator"])
    promote = ("model", "promote", "iris", "1")
    assert refusal(suite, *promote, **as_role["viewer"]) == (5, "ROLE_TOO_WEAK")
    assert suite.json("model", "get", "iris", "1", **as_role["viewer"])["stage"] == "development"
    suite.json(*promote, "--to", "staging", **as_role["operator"])
    live = (*promote, "--to", "production", "--note", "go")
    assert refusal(suite, *live, **as_role["operator"]) == (5, "ROLE_TOO_WEAK")
    moved = suite.json(*live, **as_role["admin"])
    assert (moved["version"]["stage"], moved["version"]["promoted_by"]) == ("production", "admin")

    suite.json("key", "revoke", "viewer")
    eventually(lambda: refusal(suite, "model", "list", **as_role["viewer"]) == (5, "UNKNOWN_KEY"))
    assert [key["name"] for key in suite.json("key", "list") if key["kind"] == "user"] == ["admin", "operator"]
    assert suite.json("model", "list", **as_role["admin"])[0]["production_version"] == "1"


def refusal(suite: RunningSuite, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command; gives its exit code and the reason in brackets, empty where there is none."""
    done = suite.run(*arguments, **environment)
    first = " ".join(done.stderr.split())
    return done.returncode, first.rpartition("[")[2].removesuffix("]") if "[" in first else ""
