"""`penstock apply`: what it compares, in which order it acts, what it refuses, and what it prunes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.suites.schema import SUITE_LABEL
from services.common import errors
from tests.applying import SUITE, Apply, apply, server, shelf
from tests.shelf import Shelf

__all__ = ["apply", "server", "shelf"]


def test_all_of_it_is_brought_about_in_a_safe_order_and_then_there_is_nothing_to_do(shelf: Shelf, apply: Apply) -> None:
    said = apply(SUITE, "--yes")
    assert shelf.changes == [
        "create iris",
        "update iris: ['training_config', 'serving_settings']",
        "create chat",
        "register iris 1.0.0", "register iris 2.0.0", "register chat 1",
        "1.0.0 to STAGE_CANDIDATE", "1.0.0 to STAGE_STAGING", "1.0.0 to STAGE_PRODUCTION",
        "alias champion",
    ]  # fmt: skip
    assert "2 files, 10 B to upload" in said
    assert "stage: development → candidate → staging → production\n          approved by ada: the first\n" in said
    assert dict(shelf.models["iris"].labels) == {"team": "growth", SUITE_LABEL: "testing"}
    assert shelf.models["iris"].training_config.success_criteria[0].threshold == 0.9
    assert dict(shelf.versions["iris", "1.0.0"].labels) == {"data": "a"}
    assert {file.path for file in shelf.versions["iris", "2.0.0"].files} == {"model.onnx", "deep/weights.bin"}
    assert shelf.versions["chat", "1"].ollama.mode == pb.OLLAMA_MODE_CHAT
    for arguments in ((), ("--prune",), ("--dry-run",)):
        assert apply(SUITE, *arguments).startswith("nothing to do")
        assert shelf.changes == []


def test_a_dry_run_and_an_unconfirmed_one_change_nothing(shelf: Shelf, apply: Apply) -> None:
    assert "+ model iris" in apply(SUITE, "--dry-run")
    assert "[CONFIRMATION_REQUIRED]" in apply(SUITE, exit_code=2)
    assert shelf.changes == []


def test_only_what_differs_is_shown_and_changed(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    changed = SUITE.replace("[flowers]", "[flowers, small]").replace("max_in_flight: 8", "max_in_flight: 4")
    changed = changed.replace("labels: {data: a}", "labels: {data: b}\n        serving_settings: {pinned: true}")
    said = apply(changed, "--yes")
    assert "~ tags: flowers → flowers, small" in said
    assert "~ serving_settings.max_in_flight: 8 → 4" in said
    assert "~ labels.data: a → b" in said
    assert "0 to create, 2 to change, 0 to delete" in said
    assert shelf.changes == [
        "update iris: ['tags', 'serving_settings']",
        "update 1.0.0: ['labels', 'serving_settings']",
    ]
    assert apply(changed).startswith("nothing to do")


def test_what_the_file_does_not_say_is_left_alone(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    shelf.models["iris"].capture_policy.share = 0.5
    shelf.versions["iris", "2.0.0"].stage = pb.STAGE_STAGING
    assert apply(SUITE, "--prune").startswith("nothing to do")


def test_the_document_names_every_step(shelf: Shelf, apply: Apply) -> None:
    document = json.loads(apply(SUITE, "--dry-run", "--json"))
    assert (document["suite"], document["dry_run"], document["upload_bytes"]) == ("testing", True, 13)
    assert [step["action"] for step in document["steps"]][:3] == ["create_model", "create_model", "register_version"]
    assert not any(step["done"] for step in document["steps"])
    assert all(step["done"] for step in json.loads(apply(SUITE, "--yes", "--json"))["steps"])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Path("one.onnx").write_bytes(b"other"), "suite.yaml:14: iris 1.0.0 is registered, and holds other"),
        (lambda: Path("folder/new").write_bytes(b"x"), "iris 2.0.0 is registered, and has no new"),
        (lambda: Path("folder/deep/weights.bin").unlink(), "has deep/weights.bin, which is not here"),
    ],
)
def test_a_version_whose_bytes_differ_stops_everything(
    shelf: Shelf, apply: Apply, make: Callable[[], Any], sentence: str
) -> None:
    apply(SUITE, "--yes")
    make()
    said = apply(SUITE.replace("which iris", "changed"), "--yes", exit_code=2)
    assert sentence in said
    assert "a version never changes" in said
    assert shelf.changes == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("framework: onnx", "framework: tensorflow", "is onnx"),
        ("framework: onnx", "metadata: {task_type: regression}", "has other metadata"),
        ("llama3.2:1b", "llama3.2:3b", "names llama3.2:1b instead of llama3.2:3b"),
        ("note: the first", "", "needs a `note`"),
        ("champion: 1.0.0", "champion: 9", "points at 9, which is no version of iris"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_changes(
    shelf: Shelf, apply: Apply, old: str, new: str, sentence: str
) -> None:
    apply(SUITE, "--yes")
    shelf.versions["iris", "1.0.0"].stage = pb.STAGE_STAGING
    assert sentence in apply(SUITE.replace(old, new), "--yes", exit_code=2)
    assert shelf.changes == []


def test_a_model_of_another_suite_is_not_taken_over(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    assert "belongs to the suite testing" in apply(SUITE.replace("suite: testing", "suite: x"), "--yes", exit_code=2)


def test_a_model_made_by_hand_is_changed_and_never_pruned(shelf: Shelf, apply: Apply) -> None:
    shelf.models["iris"] = pb.Model(name="iris")
    shelf.versions["iris", "0.1"] = pb.ModelVersion(model="iris", version="0.1", state=pb.VERSION_STATE_READY)
    apply(SUITE, "--yes", "--prune")
    assert SUITE_LABEL not in shelf.models["iris"].labels
    assert "delete iris 0.1" not in shelf.changes


def test_an_empty_model_made_by_hand_is_nobodys(shelf: Shelf, apply: Apply) -> None:
    shelf.models["iris"] = pb.Model(name="iris")
    apply("suite: testing\nmodels: [{name: iris, description: changed}]\n", "--yes")
    assert (shelf.models["iris"].description, dict(shelf.models["iris"].labels)) == ("changed", {})
    assert apply("suite: testing\nmodels: []\n", "--prune").startswith("nothing to do")


def test_a_model_that_was_cut_off_at_its_creation_is_known_again(shelf: Shelf, apply: Apply) -> None:
    shelf.refuses["UpdateModel"] = errors.InvalidArgument("no", reason="NO")
    apply(SUITE, "--yes", exit_code=1)
    assert shelf.models["iris"].labels[SUITE_LABEL] == "testing"
    shelf.refuses.clear()
    apply(SUITE, "--yes")
    assert shelf.changes[0] == "update iris: ['training_config', 'serving_settings']"
    assert apply(SUITE, "--prune").startswith("nothing to do")


def test_who_goes_live_archives_who_was(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    second = SUITE.replace("stage: production", "stage: archived")
    assert "leaves it only for another version" in apply(second, "--yes", exit_code=2)
    second = second.replace("framework: onnx", "framework: onnx\n        stage: production\n        note: better")
    apply(second, "--yes")
    assert shelf.changes == ["2.0.0 to STAGE_CANDIDATE", "2.0.0 to STAGE_STAGING", "2.0.0 to STAGE_PRODUCTION"]
    assert apply(second).startswith("nothing to do")
    # And back: an archived version goes live by way of staging.
    first = SUITE.replace("framework: onnx", "stage: archived")
    apply(first, "--yes")
    assert shelf.changes == ["1.0.0 to STAGE_STAGING", "1.0.0 to STAGE_PRODUCTION"]


def test_prune_deletes_what_the_file_no_longer_names_and_nothing_live(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    shelf.models["iris"].aliases["old"] = "2.0.0"
    shelf.models["other"] = pb.Model(name="other")
    without = SUITE[: SUITE.index("      - version: 2.0.0")]
    assert apply(without).startswith("nothing to do"), "pruning is asked for"
    said = apply(without, "--prune", "--yes")
    assert shelf.changes == ["delete alias old", "delete iris 2.0.0", "delete chat"]
    assert "- model chat, with its 1 version" in said
    nothing = "suite: testing\nmodels: []\n"
    assert "iris stays" in apply(nothing, "--prune", "--yes")
    assert shelf.changes == []


def test_prune_keeps_a_version_as_long_as_an_alias_points_at_it(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    shelf.models["iris"].aliases["old"] = "2.0.0"
    without = SUITE[: SUITE.index("      - version: 2.0.0")]
    unsaid = without.replace("    aliases: {champion: 1.0.0}\n", "")
    named = without.replace("champion: 1.0.0", "champion: 1.0.0, old: 2.0.0")
    for suite in (unsaid, named):
        said = apply(suite, "--prune", "--yes")
        assert "iris 2.0.0 stays, though the file does not name it: the alias old points at it" in said
        assert "iris" not in " ".join(shelf.changes)
        assert dict(shelf.models["iris"].aliases) == {"champion": "1.0.0", "old": "2.0.0"}
    del shelf.models["iris"].aliases["old"]
    apply(unsaid, "--prune", "--yes")
    assert shelf.changes == ["delete iris 2.0.0"]


def test_prune_counts_the_versions_that_are_there(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    shelf.versions["chat", "1"].delete_time.GetCurrentTime()
    shelf.versions["chat", "2"] = pb.ModelVersion(model="chat", version="2", state=pb.VERSION_STATE_READY)
    assert "- model chat, with its 1 version\n" in apply(SUITE[: SUITE.index("  - name: chat")], "--prune", "--dry-run")


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        (pb.VERSION_STATE_UPLOADING, "is being uploaded; when that has ended, apply again"),
        (pb.VERSION_STATE_VALIDATING, "is registered, and has no model.onnx; it is being validated: apply again when"),
    ],
)
def test_a_version_on_its_way_is_waited_for(
    shelf: Shelf, apply: Apply, state: pb.VersionState.ValueType, advice: str
) -> None:
    apply(SUITE, "--yes")
    shelf.versions["iris", "2.0.0"].state = state
    del shelf.versions["iris", "2.0.0"].files[:]
    shelf.versions["iris", "2.0.0"].files.add(path="deep/weights.bin", sha256=sha256(b"weights").hexdigest())
    said = apply(SUITE, "--yes", exit_code=2)
    assert f"iris 2.0.0 {advice}" in said
    assert "never changes" not in said


def test_a_pruned_version_that_is_named_again_is_restored(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    apply(
        SUITE.replace("      - version: 2.0.0", "  - name: x\n    versions:\n      - version: 2.0.0"),
        "--prune",
        "--yes",
    )
    assert "delete iris 2.0.0" in shelf.changes
    apply(SUITE, "--yes")
    assert shelf.changes == ["restore iris 2.0.0"]


def test_a_failed_version_is_tried_again_or_replaced(shelf: Shelf, apply: Apply) -> None:
    shelf.fails_validation = {"2.0.0"}
    assert "failed validation" in apply(SUITE, "--yes", exit_code=1)
    shelf.fails_validation = set()
    apply(SUITE, "--yes")
    assert shelf.changes[0] == "revalidate 2.0.0"
    shelf.versions["iris", "2.0.0"].state = pb.VERSION_STATE_FAILED
    shelf.versions["iris", "2.0.0"].ClearField("ready_time")
    Path("folder/model.onnx").write_bytes(b"mended")
    apply(SUITE, "--yes")
    assert shelf.changes == ["delete iris 2.0.0", "register iris 2.0.0"]


def test_an_archive_is_compared_by_what_it_holds(shelf: Shelf, apply: Apply) -> None:
    for kind, name in (("zip", "m.zip"), ("gztar", "m.tar.gz")):
        shutil.make_archive(name.partition(".")[0], kind, "folder")
        source = f"source: {{path: {name}, unpack: true}}"
        suite = f"suite: a\nmodels: [{{name: {kind}, versions: [{{version: 1, framework: onnx, {source}}}]}}]\n"
        apply(suite, "--yes")
        found = shelf.versions[kind, "1"]
        assert [file.path for file in found.files] == [name], "the shelf does not unpack; the registry does"
        del found.files[:]
        found.files.add(path="deep/weights.bin", sha256="89f3ae7ce9a70c38f5a12a4a1a1e8bcd", size_bytes=7)
        assert "deep/weights.bin is sha256 89f3ae7ce9a7…" in apply(suite, exit_code=2)
    Path("m.zip").write_bytes(b"no archive")
    suite = suite.replace("m.tar.gz", "m.zip")
    assert "is no archive" in apply(suite, exit_code=2)
