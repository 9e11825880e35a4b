"""Suite files on a whole suite: the ready-made ones are applied, changed, broken and pruned, as a person would."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.cli.suites.schema import read_suite
from tests.embedded import eventually
from tests.suite import RunningSuite, start_suite

__all__ = ["start_suite"]
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "suites").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_ready_made_suites_are_well_formed(example: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(example, tmp_path))
    for path in re.findall(r"path: ([^,}\s]+)", copy.read_text()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    suite = read_suite(copy)
    assert suite.name == example.stem
    assert all(model.versions for model in suite.models)


def test_the_promised_suites_are_there() -> None:
    assert {"minimal", "testing", "benchmarking"} <= {example.stem for example in EXAMPLES}


@pytest.mark.slow
def test_ready_made_suites_are_applied_changed_and_pruned(
    tmp_path: Path, start_suite: Callable[[Path], RunningSuite]
) -> None:
    for name in ("minimal", "testing"):
        shutil.copy(ROOT / "examples" / "suites" / f"{name}.yaml", tmp_path)
    build = [sys.executable, "-m", "examples.models", str(tmp_path / "models"), "--set", "minimal", "--set", "testing"]
    subprocess.run(build, cwd=ROOT, check=True, timeout=240)
    suite = start_suite(tmp_path / "data")
    with suite.client() as client:
        client.registry.create_model("first-iris")  # by hand: it is changed, and nobody's

    assert "[CONFIRMATION_REQUIRED]" in suite.run("apply", "-f", "minimal.yaml").stderr
    for name in ("minimal", "testing"):
        applied = suite.json("apply", "-f", f"{name}.yaml", "--yes")
        assert applied["steps"]
        assert all(step["done"] for step in applied["steps"])
        assert suite.json("apply", "-f", f"{name}.yaml", "--prune", "--dry-run")["steps"] == []
    with suite.client() as client:
        assert dict(client.registry.get_model("first-iris").labels) == {}
        live = client.registry.get_model("test-iris")
    assert live.labels["penstock.io/suite"] == "testing"
    assert (live.production_version, dict(live.aliases)) == ("2.0.0", {"newest": "2.0.0", "stable": "1.0.0"})
    flower = '{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}'
    eventually(lambda: suite.run("predict", "first-iris", flower).returncode == 0)

    # What is edited is shown and changed, and nothing else.
    file = tmp_path / "testing.yaml"
    whole = file.read_text()
    file.write_text(whole.replace("{max_in_flight: 4}", "{max_in_flight: 2}"))
    shown = suite.run("apply", "-f", "testing.yaml", "--dry-run").stdout
    assert "serving_settings.max_in_flight: 4 → 2" in shown
    assert "0 to create, 1 to change, 0 to delete" in shown
    suite.json("apply", "-f", "testing.yaml", "--yes")
    (change,) = suite.json("model", "audit", "test-centred", "--action", "UpdateVersion")
    assert (change["before"]["serving_settings"], change["after"]["serving_settings"]) == (
        {"max_in_flight": 4},
        {"max_in_flight": 2},
    )

    # Other bytes under a version's name are refused before anything changes.
    identity = tmp_path / "models" / "identity-1.0.0.onnx"
    content = identity.read_bytes()
    identity.write_bytes((tmp_path / "models" / "add-1.0.0.onnx").read_bytes())
    refused = suite.run("apply", "-f", "testing.yaml", "--yes")
    assert refused.returncode == 2
    assert "test-identity 1.0.0 is registered, and holds other bytes" in refused.stderr
    identity.write_bytes(content)

    # Pruned, restored, and never while it is live.
    begin, end = whole.index("  - name: test-add"), whole.index("  - name: test-greet")
    file.write_text(whole[:begin] + whole[end:])
    pruned = suite.json("apply", "-f", "testing.yaml", "--prune", "--yes")
    assert [step["model"] for step in pruned["steps"] if step["action"] == "delete_model"] == ["test-add"]
    file.write_text(whole)
    assert "penstock model restore test-add" in suite.run("apply", "-f", "testing.yaml", "--yes").stderr
    with suite.client() as client:
        client.registry.restore_model("test-add")
    file.write_text("suite: testing\nmodels: []\n")
    pruned = suite.json("apply", "-f", "testing.yaml", "--prune", "--yes")
    assert ["test-iris stays" in kept for kept in pruned["kept"]] == [True]
    with suite.client() as client:
        assert [model.name for model in client.registry.list_models()] == ["first-iris", "test-iris"]
