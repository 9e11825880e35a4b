"""`penstock model …`: search, editing, aliases, deletion, evaluations, audit, as a person and as a script meet them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.api.registry.v1 import administration_pb2 as admin
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.__main__ import run
from penstock.values import to_struct
from services.common import errors
from tests.sdk import ScriptedServer, abort, answer, fail, scripted_server

MODEL = pb.Model(name="iris", etag="e1", version_count=2, labels={"team": "a", "old": ""}, tags=["x"])
VERSION = pb.ModelVersion(model="iris", version="1", etag="e1", stage=pb.STAGE_STAGING, state=pb.VERSION_STATE_READY)
MISMATCH = errors.Aborted("somebody changed it", reason="ETAG_MISMATCH")
MISMATCH.retryable = False  # the same request again would meet the same


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        monkeypatch.setenv("PENSTOCK_REGISTRY_ADDRESS", server.address)
        monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        server.on("GetModel", answer(pb.GetModelResponse(model=MODEL)))
        server.on("GetVersion", answer(pb.GetVersionResponse(version=VERSION)))
        server.on("UpdateModel", answer(pb.UpdateModelResponse(model=MODEL)))
        server.on("UpdateVersion", answer(pb.UpdateVersionResponse(version=VERSION)))
        yield server


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command that must succeed, and read its document."""

    def read(*arguments: str) -> Any:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return read


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    capsys.readouterr()
    assert run(arguments) == exit_code
    printed = capsys.readouterr()
    return printed.out if exit_code == 0 else " ".join(printed.err.replace("│", " ").split())


def test_lists_take_words_labels_and_the_deleted_along(
    server: ScriptedServer, read: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = pb.Model(name="old")
    gone.delete_time.GetCurrentTime()
    server.on("ListModels", answer(pb.ListModelsResponse(models=[MODEL, gone])))
    server.on("ListVersions", answer(pb.ListVersionsResponse(versions=[VERSION])))
    read("model", "list", "--query", "flow", "--label", "team=a", "-l", "x=", "--deleted")
    read("model", "versions", "--framework", "onnx", "--state", "ready", "-q", "flow", "-l", "team=a", "--deleted")
    assert "old (deleted)" in said(capsys, "model", "list")
    assert "MODEL" in said(capsys, "model", "versions").splitlines()[0]
    assert "MODEL" not in said(capsys, "model", "versions", "iris").splitlines()[0]
    listed = server.calls["ListModels"][0]
    assert (listed.query, dict(listed.labels), listed.show_deleted) == ("flow", {"team": "a", "x": ""}, True)
    asked = server.calls["ListVersions"][0]
    assert (asked.model, asked.framework, asked.state) == ("", pb.FRAMEWORK_ONNX, pb.VERSION_STATE_READY)
    assert (asked.query, dict(asked.labels), asked.show_deleted) == ("flow", {"team": "a"}, True)
    assert "no-equals" in said(capsys, "model", "list", "--label", "no-equals", exit_code=2)


def test_get_finds_what_an_alias_means_and_a_failed_version_by_its_name(
    server: ScriptedServer, read: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("ResolveVersion", answer(pb.ResolveVersionResponse(version=VERSION)))
    assert read("model", "get", "iris", "1")["version"] == "1"
    assert not server.calls["ResolveVersion"]
    server.on("GetVersion", fail(errors.NotFound("no such version", reason="VERSION_NOT_FOUND")))
    assert read("model", "get", "iris", "champion")["version"] == "1"
    server.on("ResolveVersion", fail(errors.NotFound("none is ready", reason="NO_VERSION_READY")))
    assert "[VERSION_NOT_FOUND]" in said(capsys, "model", "get", "iris", "9", exit_code=3)


def test_set_changes_what_is_named_and_reads_first_only_where_it_must(
    server: ScriptedServer, read: Callable[..., Any]
) -> None:
    read("model", "set", "iris", "--description", "", "--serving", "max_in_flight=4", "--capture", "share=")
    assert not server.calls["GetModel"]
    (sent,) = server.calls["UpdateModel"]
    assert sent.update_mask.paths == ["description", "serving_settings.max_in_flight", "capture_policy.share"]
    assert (sent.model.etag, sent.model.serving_settings.max_in_flight) == ("", 4)
    read(
        *("model", "set", "iris", "--label", "team=b", "--unlabel", "old", "--tag", "y", "--untag", "x"),
        *("--criterion", "accuracy >= 0.95", "--criterion", "latency_ms<=20", "--recipe", "sklearn"),
    )
    sent = server.calls["UpdateModel"][1].model
    assert (sent.etag, dict(sent.labels), list(sent.tags)) == ("e1", {"team": "b"}, ["y"])
    assert sent.training_config == pb.TrainingConfig(
        recipe="sklearn",
        success_criteria=[
            pb.SuccessCriterion(metric="accuracy", comparison=pb.COMPARISON_AT_LEAST, threshold=0.95),
            pb.SuccessCriterion(metric="latency_ms", comparison=pb.COMPARISON_AT_MOST, threshold=20),
        ],
    )
    read("model", "set", "iris", "1", "--serving", "pinned=true", "--label", "a=b")
    (edited,) = server.calls["UpdateVersion"]
    assert edited.update_mask.paths == ["labels", "serving_settings.pinned"]
    assert edited.version.etag == "e1"


def test_every_serving_setting_can_be_set_and_is_shown(
    server: ScriptedServer, read: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    said_of = {
        "max_batch_size": "32", "max_queue_delay_us": "500", "max_queue_size": "256", "queue_full_action": "displace",
        "priority_levels": "2", "default_priority": "1", "timeout_ms": "2000", "instances": "3", "warm_up": "1,32",
        "preload": "true", "response_cache.enabled": "true", "response_cache.ttl_ms": "60000",
        "response_cache.max_answer_bytes": "",
    }  # fmt: skip
    options = [part for name, text in said_of.items() for part in ("--serving", f"{name}={text}")]
    read("model", "set", "iris", "1", *options)
    (sent,) = server.calls["UpdateVersion"]
    assert sent.update_mask.paths == [f"serving_settings.{name}" for name in said_of]
    settings = sent.version.serving_settings
    assert settings == pb.ServingSettings(
        max_batch_size=32, max_queue_delay_us=500, max_queue_size=256,
        queue_full_action=pb.QUEUE_FULL_ACTION_DISPLACE, priority_levels=2, default_priority=1, timeout_ms=2000,
        instances=3, warm_up=[pb.WarmUpRequest(row_count=1), pb.WarmUpRequest(row_count=32)], preload=True,
        response_cache=pb.ResponseCachePolicy(enabled=True, ttl_ms=60_000),
    )  # fmt: skip
    shown = pb.ModelVersion(model="iris", version="1", serving_settings=settings)
    server.on("GetVersion", answer(pb.GetVersionResponse(version=shown)))
    told = " ".join(said(capsys, "model", "get", "iris", "1").split())
    for words in ("batches of 32 rows", "a queue of 256", "2 priorities", "2,000 ms to begin", "preloaded",
                  "warmed up by 1 row; 32 rows", "answers kept for 60,000 ms"):  # fmt: skip
        assert words in told


def test_labels_that_somebody_else_changes_meanwhile_are_read_again(
    server: ScriptedServer, read: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("UpdateModel", fail(MISMATCH), answer(pb.UpdateModelResponse(model=MODEL)))
    read("model", "set", "iris", "--label", "team=b")
    assert (len(server.calls["GetModel"]), len(server.calls["UpdateModel"])) == (2, 2)
    server.on("UpdateModel", fail(MISMATCH))
    assert "[ETAG_MISMATCH]" in said(capsys, "model", "set", "iris", "--label", "team=b", exit_code=1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["iris"], "say what to change"),
        (["iris", "1", "--tag", "x"], "leave VERSION out"),
        (["iris", "--serving", "threads=4"], "there is no 'threads'; there are max_in_flight, pinned"),
        (["iris", "--serving", "response_cache=true"], "there are max_in_flight"),
        (
            ["iris", "--serving", "queue_full_action=wait"],
            "queue_full_action takes one of reject, displace, not 'wait'",
        ),
        (["iris", "--serving", "warm_up=much"], "warm_up takes numbers of rows with commas between them"),
        (["iris", "--serving", "max_in_flight=many"], "max_in_flight takes a whole number, not 'many'"),
        (["iris", "--capture", "disabled=maybe"], "disabled takes true or false, not 'maybe'"),
        (["iris", "--criterion", "accuracy=1"], "METRIC>=X"),
        (["iris", "--label", "a=1", "--label", "a=2"], "'a' comes twice"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert sentence in said(capsys, "model", "set", *arguments, exit_code=2)
    assert not server.calls


def test_aliases_are_listed_set_and_deleted(
    server: ScriptedServer, read: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GetModel", answer(pb.GetModelResponse(model=pb.Model(aliases={"b": "2", "a": "1"}))))
    server.on("SetAlias", answer(pb.SetAliasResponse(version=VERSION, previous_version="0")))
    server.on("DeleteAlias", answer(pb.DeleteAliasResponse()))
    assert list(read("model", "alias", "iris").items()) == [("a", "1"), ("b", "2")]
    assert said(capsys, "model", "alias", "iris", "champion", "1") == "iris champion → 1 (before: 0)\n"
    said(capsys, "model", "alias", "iris", "champion", "--delete")
    assert server.calls["DeleteAlias"] == [pb.DeleteAliasRequest(model="iris", alias="champion")]
    said(capsys, "model", "alias", "iris", "champion", exit_code=2)
    said(capsys, "model", "alias", "iris", "--delete", exit_code=2)


def test_nothing_is_deleted_that_nobody_confirmed(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the model's versions, as many as were ever registered, two are still there.
    server.on("GetModel", answer(pb.GetModelResponse(model=pb.Model(name="iris", etag="e1", version_count=5))))
    server.on("ListVersions", answer(pb.ListVersionsResponse(versions=[VERSION, VERSION])))
    gone = pb.Model(name="iris")
    gone.purge_time.FromDatetime(datetime(2030, 1, 1, tzinfo=UTC))
    server.on("DeleteModel", answer(pb.DeleteModelResponse(model=gone)))
    assert "--yes" in said(capsys, "model", "delete", "iris", exit_code=2)
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question, err: asked.append(question))
    assert "[DECLINED]" in said(capsys, "model", "delete", "iris", exit_code=1)
    assert asked == ["delete iris with its 2 versions?"]
    said(capsys, "model", "delete", "iris", "--json", exit_code=2)
    assert not server.calls["DeleteModel"]
    capsys.readouterr()
    assert run(["model", "delete", "iris", "--yes", "--force"]) == 0
    assert "2030" in capsys.readouterr().err
    assert server.calls["DeleteModel"] == [pb.DeleteModelRequest(name="iris", etag="e1", force=True)]


def test_a_version_is_deleted_and_restored_by_name(server: ScriptedServer, read: Callable[..., Any]) -> None:
    server.on("DeleteVersion", answer(pb.DeleteVersionResponse(version=VERSION)))
    server.on("RestoreVersion", answer(pb.RestoreVersionResponse(version=VERSION)))
    server.on("RestoreModel", answer(pb.RestoreModelResponse(model=MODEL)))
    assert read("model", "delete", "iris", "1", "--yes")["stage"] == "staging"
    read("model", "restore", "iris", "1")
    read("model", "restore", "iris")
    assert server.calls["DeleteVersion"] == [pb.DeleteVersionRequest(model="iris", version="1", etag="e1")]
    assert run(["model", "delete", "iris", "1", "--yes", "--force"]) == 2


def test_gc_reports_what_it_did_in_words(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    done = admin.CollectGarbageResponse(dry_run=True, purged_version_count=3, condemned_count=2, condemned_bytes=2048)
    done.blobs.add(sha256="ab" * 32, size_bytes=1024, fate=admin.GARBAGE_FATE_CONDEMNED)
    server.on("CollectGarbage", answer(done))
    printed = said(capsys, "model", "gc", "--dry-run", "--scan")
    assert "would do" in printed
    assert "versions purged  3" in printed
    assert "blobs condemned  2, 2.0 KiB" in printed
    assert "condemned" in printed.splitlines()[-1]
    assert server.calls["CollectGarbage"] == [admin.CollectGarbageRequest(dry_run=True, scan_store=True)]
    server.on("CollectGarbage", answer(admin.CollectGarbageResponse()))
    assert said(capsys, "model", "gc") == "there is nothing to collect\n"


def test_audit_says_who_changed_what_from_what_to_what(
    server: ScriptedServer, read: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    entry = admin.AuditEntry(caller="ada", role="admin", action="UpdateVersion", model="iris", version="1", note="why")
    entry.before.CopyFrom(to_struct({"serving_settings": {"max_in_flight": 0}, "tags": []}))
    entry.after.CopyFrom(to_struct({"serving_settings": {"max_in_flight": 4, "pinned": True}, "tags": ["x"]}))
    server.on("ListAuditEntries", answer(admin.ListAuditEntriesResponse(entries=[entry])))
    row = said(capsys, "model", "audit").splitlines()[1]
    assert "ada  UpdateVersion  iris 1" in row
    nothing = "\N{EN DASH}"
    assert "serving_settings.max_in_flight: 0 → 4; " in row
    assert f"serving_settings.pinned: {nothing} → true; tags: {nothing} → x" in row
    assert row.endswith("why")
    entry.before.CopyFrom(to_struct({"stage": "STAGING", "labels": {"stage": "A"}}))
    entry.after.CopyFrom(to_struct({"stage": "PRODUCTION", "labels": {"stage": "B"}}))
    server.on("ListAuditEntries", answer(admin.ListAuditEntriesResponse(entries=[entry])))
    assert "labels.stage: A → B; stage: staging → production" in said(capsys, "model", "audit").splitlines()[1]
    entry.after.CopyFrom(to_struct({"serving_settings": {"max_in_flight": 4, "pinned": True}, "tags": ["x"]}))
    entry.ClearField("before")
    server.on("ListAuditEntries", answer(admin.ListAuditEntriesResponse(entries=[entry])))
    created = said(capsys, "model", "audit").splitlines()[1]
    assert "serving_settings.max_in_flight: 4" in created
    assert "→" not in created
    before = datetime.now(UTC)
    document = read(
        *("model", "audit", "iris", "-v", "1", "--caller", "ada", "--action", "UpdateVersion"),
        *("--since", "2h", "--until", "2031-01-31T12:00+00:00"),
    )
    assert document[0]["after"]["serving_settings"] == {"max_in_flight": 4.0, "pinned": True}
    asked = server.calls["ListAuditEntries"][-1]
    assert (asked.model, asked.version, asked.caller, asked.action) == ("iris", "1", "ada", "UpdateVersion")
    assert abs(before - timedelta(hours=2) - asked.start_time.ToDatetime(UTC)) < timedelta(minutes=1)
    assert asked.end_time.ToDatetime(UTC) == datetime(2031, 1, 31, 12, tzinfo=UTC)
    assert "is no time" in said(capsys, "model", "audit", "--since", "soon", exit_code=2)


def test_evaluations_are_recorded_judged_and_listed(
    server: ScriptedServer, read: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    judged = pb.Evaluation(version="1", metrics={"accuracy": 0.9}, shortfalls=["accuracy is 0.9, and must be 0.95"])
    server.on("RecordEvaluation", answer(pb.RecordEvaluationResponse(evaluation=judged)))
    server.on("ListEvaluations", answer(pb.ListEvaluationsResponse(evaluations=[judged])))
    printed = said(capsys, "model", "evaluate", "iris", "1", "--metric", "accuracy=0.9", "--dataset", "held-out")
    assert printed == "iris 1  falls short\naccuracy is 0.9, and must be 0.95\n"
    assert dict(server.calls["RecordEvaluation"][0].metrics) == {"accuracy": 0.9}
    assert "accuracy=0.9" in said(capsys, "model", "evaluations", "iris")
    assert read("model", "evaluations", "iris")[0]["passed"] is False
    assert "no number" in said(capsys, "model", "evaluate", "iris", "1", "--metric", "accuracy=high", exit_code=2)


def test_a_url_stands_alone_where_there_is_one(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("ResolveVersion", answer(pb.ResolveVersionResponse(version=VERSION)))
    server.on("CreateDownloadUrl", answer(pb.CreateDownloadUrlResponse(url="https://s3/x?y")))
    assert said(capsys, "model", "url", "iris", "--for", "1h", "--file", "a.onnx") == "https://s3/x?y\n"
    assert server.calls["CreateDownloadUrl"] == [
        pb.CreateDownloadUrlRequest(model="iris", version="1", path="a.onnx", lifetime_s=3_600)
    ]
    server.on("CreateDownloadUrl", answer(pb.CreateDownloadUrlResponse()))
    assert "penstock model download" in said(capsys, "model", "url", "iris", exit_code=1)


def test_register_takes_folders_archives_and_references(
    server: ScriptedServer, read: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept: list[pb.RegisterVersionRequest] = []

    def behave(requests: Any, context: grpc.ServicerContext) -> pb.RegisterVersionResponse:
        kept[:] = list(requests)
        return pb.RegisterVersionResponse(version=VERSION)

    server.on("RegisterVersion", behave)
    folder = tmp_path / "bundle"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "index").write_bytes(b"v")
    read("model", "register", "m", "bundle", "-v", "1", "--description", "d", "--label", "a=b")
    assert [each.file.path for each in kept if each.HasField("file")] == ["saved_model.pb", "variables/index"]
    assert (kept[0].header.framework, kept[0].header.description) == (pb.FRAMEWORK_TENSORFLOW, "d")
    assert dict(kept[0].header.labels) == {"a": "b"}
    (tmp_path / "m.zip").write_bytes(b"zip")
    read("model", "register", "m", "m.zip", "-v", "1", "--unpack", "--framework", "tensorflow")
    assert kept[1].file.unpack
    read("model", "register", "chat", "-v", "1", "--ollama", "llama3.2:1b", "--mode", "chat")
    assert kept[0].header.ollama == pb.OllamaReference(model="llama3.2:1b", mode=pb.OLLAMA_MODE_CHAT)
    assert len(kept) == 1
    task = (
        "--task-type",
        "text-classification",
        "--field",
        "pooling=cls",
        "--field",
        "normalize=false",
        "--group",
        "g",
    )
    read("model", "register", "m", "bundle", "-v", "1", *task, "--field", "seed=7")
    metadata = kept[0].header.metadata
    assert (metadata.task_type, metadata.equivalence_group) == ("text-classification", "g")
    assert dict(metadata.fields) == {"pooling": "cls", "normalize": False, "seed": 7}
    for wrong in (["m"], ["m", "m.zip", "--ollama", "x"], ["m", "--ollama", "x"], ["m", "m.zip", "--field", "seed"]):
        assert run(["model", "register", *wrong, "-v", "1"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("promote", "iris", "1", "--to", "production"),
        ("promote", "iris", "1"),
        ("rollback", "iris"),
        ("register", "iris", "iris.onnx", "-v", "1", "--stage", "production"),
    ],
)
def test_a_missing_note_ends_alike_everywhere(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "iris.onnx").write_bytes(b"x")
    needed = errors.InvalidArgument("PRODUCTION needs a note", reason="APPROVAL_REQUIRED")
    server.on("PromoteVersion", lambda request, context: abort(context, needed))
    assert "--note" in said(capsys, "model", *arguments, exit_code=2)


def test_help_shows_no_types_of_flags_and_refused_choices_no_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["model", "versions", "--help"], ["key", "create", "--help"]):
        assert run(arguments) == 0
        assert "<bool>" not in capsys.readouterr().out
    assert "Value error" not in said(capsys, "model", "versions", "--stage", "prod", exit_code=2)


def test_documents_use_the_words_of_the_options_and_are_strict_json(
    server: ScriptedServer, read: Callable[..., Any]
) -> None:
    version = pb.ModelVersion(stage=pb.STAGE_PRODUCTION, framework=pb.FRAMEWORK_ONNX)
    version.signature.inputs.add(name="X", datatype="DATA_TYPE_FP32")
    version.metadata.fields["score"] = float("nan")
    server.on("GetVersion", answer(pb.GetVersionResponse(version=version)))
    document = read("model", "get", "iris", "1")
    assert (document["stage"], document["framework"], document["state"]) == ("production", "onnx", None)
    assert document["signature"]["inputs"][0]["datatype"] == "FP32"
    assert document["metadata"]["fields"]["score"] == "NaN"
