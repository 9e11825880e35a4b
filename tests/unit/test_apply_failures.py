"""`penstock apply` where it does not go through: what breaks, what others do meanwhile, and what is left undone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.__main__ import run
from services.common import errors
from tests.applying import SUITE, Apply, apply, server, shelf
from tests.shelf import Shelf

__all__ = ["apply", "server", "shelf"]


def test_a_failure_ends_its_model_and_says_what_was_done_and_what_was_not(
    shelf: Shelf, apply: Apply, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.refuses["PromoteVersion"] = errors.FailedPrecondition("not yet", reason="EVALUATION_REQUIRED")
    Path("suite.yaml").write_text(SUITE)
    assert run(["apply", "-f", "suite.yaml", "--yes"]) == 1
    printed = capsys.readouterr()
    assert "✔ register version chat 1" in printed.out
    assert "✘ move version iris 1.0.0: not yet" in printed.out
    assert "· set alias iris champion → 1.0.0 was not done" in printed.out
    assert "penstock model evaluate" in printed.err
    assert "[EVALUATION_REQUIRED]" in printed.err
    document = json.loads(_failing(capsys, "--yes", "--json"))
    assert document["failures"] == [
        {"model": "iris", "name": "", "reason": "EVALUATION_REQUIRED", "message": "not yet"}
    ]
    shelf.refuses.clear()
    apply(SUITE, "--yes")
    assert shelf.changes[0] == "1.0.0 to STAGE_CANDIDATE", "it goes on where it broke"
    assert apply(SUITE).startswith("nothing to do")


def _failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["apply", "-f", "suite.yaml", *arguments]) == 1
    return capsys.readouterr().out


def test_a_change_by_somebody_else_meanwhile_is_kept_and_explained(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    shelf.meanwhile["UpdateModel"] = lambda: setattr(shelf.models["iris"], "etag", "theirs")
    shelf.meanwhile["UpdateVersion"] = lambda: setattr(shelf.versions["iris", "1.0.0"], "etag", "theirs")
    for old, new in (("which iris", "changed"), ("{data: a}", "{data: b}")):
        said = apply(SUITE.replace(old, new), "--yes", exit_code=1)
        assert "run this again to see what differs now [ETAG_MISMATCH]" in said
        assert shelf.changes == []


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.InvalidArgument("no", reason="NO"), 1),
        (errors.PermissionDenied("no", reason="ROLE_TOO_WEAK"), 5),
        (errors.AlreadyExists("no", reason="VERSION_EXISTS"), 4),
        (errors.ResourceExhausted("no", reason="QUOTA"), 1),
    ],
)
def test_what_one_model_is_refused_ends_all_deleting_and_no_other_model(
    shelf: Shelf, apply: Apply, error: errors.DomainError, exit_code: int
) -> None:
    error.retryable = False
    apply("suite: testing\nmodels: [{name: old}]\n", "--yes")
    shelf.refuses["RegisterVersion"] = error
    suite = SUITE.replace("  - name: chat", "  - name: flowers\n    aliases: {}\n  - name: chat")
    apply(suite, "--prune", "--yes", exit_code=exit_code)
    assert [change for change in shelf.changes if not change.startswith("update")] == [
        "create iris", "create flowers", "create chat",
    ]  # fmt: skip
    shelf.refuses.clear()
    apply(suite, "--prune", "--yes")
    assert shelf.changes[-1] == "delete old"


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.Unauthenticated("no", reason="EXPIRED_KEY"), 5),
        (errors.DeadlineExceeded("no", reason="TOO_LATE"), 6),
        (errors.Unavailable("draining"), 6),
    ],
)
def test_where_nothing_answers_any_more_it_ends_at_once(
    shelf: Shelf, apply: Apply, error: errors.DomainError, exit_code: int
) -> None:
    error.retryable = False
    shelf.refuses["RegisterVersion"] = error
    apply(SUITE, "--yes", exit_code=exit_code)
    assert [change for change in shelf.changes if not change.startswith(("create", "update"))] == []
    assert shelf.asked["RegisterVersion"] == 1


def test_one_version_that_validates_for_long_does_not_end_the_other_models(shelf: Shelf, apply: Apply) -> None:
    shelf.refuses["GetVersion"] = errors.DeadlineExceeded("still VALIDATING", reason="VALIDATION_TIMEOUT")
    shelf.refuses["GetVersion"].retryable = False
    apply(SUITE, "--yes", exit_code=6)
    assert shelf.asked["GetVersion"] == 2, "of each model one"


def test_a_file_that_is_gone_meanwhile_ends_its_model_and_is_in_the_document(
    shelf: Shelf, apply: Apply, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("suite.yaml").write_text(SUITE)
    shelf.meanwhile["CreateModel"] = lambda: Path("one.onnx").unlink(missing_ok=True)
    assert run(["apply", "-f", "suite.yaml", "--yes", "--json"]) == 3
    assert "register chat 1" in shelf.changes
    (failure,) = json.loads(capsys.readouterr().out)["failures"]
    assert (failure["model"], failure["reason"]) == ("iris", "FILE_NOT_FOUND")
    assert "one.onnx" in failure["message"]


Others = Callable[[Shelf], object]


def _goes_live(shelf: Shelf) -> None:
    shelf.versions["iris", "1.0.0"].stage = pb.STAGE_ARCHIVED
    shelf.versions["iris", "3"] = pb.ModelVersion(model="iris", version="3", stage=pb.STAGE_PRODUCTION)


@pytest.mark.parametrize(
    ("edit", "others", "said"),
    [
        (
            ("champion: 1.0.0", "champion: 2.0.0"),
            lambda shelf: shelf.models["iris"].aliases.update(champion="3"),
            "the alias champion of iris points at 3 now",
        ),
        (
            ("champion: 1.0.0", "champion: 1.0.0, second: 2.0.0"),
            lambda shelf: shelf.models["iris"].aliases.update(second="1.0.0"),
            "the alias second of iris points at 1.0.0 now",
        ),
        (
            ("{champion: 1.0.0}", "{}"),
            lambda shelf: shelf.models["iris"].aliases.update(champion="2.0.0"),
            "the alias champion of iris points at 2.0.0 now",
        ),
        (
            ("framework: onnx", "stage: staging"),
            lambda shelf: setattr(shelf.versions["iris", "2.0.0"], "stage", pb.STAGE_ARCHIVED),
            "iris 2.0.0 is in archived now",
        ),
        (
            ("framework: onnx", "stage: production\n        note: better"),
            _goes_live,
            "3 of iris is live now",
        ),
        (
            ("      - version: 2.0.0\n        source: {path: folder}\n        framework: onnx\n", ""),
            lambda shelf: shelf.models["iris"].aliases.update(mine="2.0.0"),
            "the alias mine points at iris 2.0.0 now",
        ),
        (
            ("      - version: 2.0.0\n        source: {path: folder}\n        framework: onnx\n", ""),
            lambda shelf: shelf.versions["iris", "2.0.0"].labels.update(kept="yes"),
            "iris 2.0.0 was changed",
        ),
        (
            (SUITE[SUITE.index("  - name: chat") :], ""),
            lambda shelf: shelf.models["chat"].aliases.update(mine="1"),
            "chat has other versions or aliases now",
        ),
    ],
)
def test_what_somebody_else_did_meanwhile_stays_also_where_no_etag_guards_it(
    shelf: Shelf, apply: Apply, edit: tuple[str, str], others: Others, said: str
) -> None:
    apply(SUITE, "--yes")
    suite = SUITE.replace("which iris", "changed").replace(*edit)
    if "better" in edit[1]:  # who is live leaves it for another
        suite = suite.replace("stage: production\n        note: the first", "stage: archived")
    shelf.meanwhile["UpdateModel"] = lambda: others(shelf)
    printed = apply(suite, "--prune", "--yes", exit_code=1)
    assert f"{said}, otherwise than when it was compared; it is left so" in printed
    assert "run this again to see what differs now [ETAG_MISMATCH]" in printed
    assert shelf.changes == ["update iris: ['description']"]


@pytest.mark.parametrize(
    ("rpc", "begin", "end"),
    [("DeleteVersion", "      - version: 2.0.0", "  - name: chat"), ("DeleteModel", "  - name: chat", "")],
)
def test_what_is_deleted_is_what_was_compared(shelf: Shelf, apply: Apply, rpc: str, begin: str, end: str) -> None:
    apply(SUITE, "--yes")

    def change() -> None:
        shelf.versions["iris", "2.0.0"].etag = shelf.models["chat"].etag = "theirs"

    shelf.meanwhile[rpc] = change
    gone = SUITE[SUITE.index(begin) : SUITE.index(end) if end else None]
    assert "[ETAG_MISMATCH]" in apply(SUITE.replace(gone, ""), "--prune", "--yes", exit_code=1)
    assert shelf.changes == []


def test_a_failed_version_that_is_another_meanwhile_is_not_replaced(shelf: Shelf, apply: Apply) -> None:
    shelf.fails_validation = {"2.0.0"}
    apply(SUITE, "--yes", exit_code=1)
    Path("folder/model.onnx").write_bytes(b"mended")
    shelf.meanwhile["DeleteVersion"] = lambda: setattr(shelf.versions["iris", "2.0.0"], "etag", "theirs")
    assert "[ETAG_MISMATCH]" in apply(SUITE, "--yes", exit_code=1)
    assert shelf.changes == []


def test_a_restored_version_that_somebody_describes_meanwhile_is_left_so(shelf: Shelf, apply: Apply) -> None:
    apply(SUITE, "--yes")
    shelf.versions["iris", "2.0.0"].delete_time.GetCurrentTime()
    shelf.meanwhile["RestoreVersion"] = lambda: setattr(shelf.versions["iris", "2.0.0"], "description", "theirs")
    said = apply(SUITE.replace("framework: onnx", "description: ours"), "--yes", exit_code=1)
    assert "iris 2.0.0 was changed" in said
    assert shelf.changes == ["restore iris 2.0.0"]
