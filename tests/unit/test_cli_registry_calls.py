"""Registering, promoting, looking at and downloading versions at the command line, against scripted answers."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.cli.__main__ import run
from services.common import errors
from tests.cli_script import Script, answer, script, version_in

__all__ = ["answer", "script"]


def test_register_uploads_the_file_and_waits_until_it_is_validated(
    script: Script, answer: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "iris.onnx"
    path.write_bytes(b"x" * 3_000_000)
    states = iter([registry.VERSION_STATE_VALIDATING, registry.VERSION_STATE_READY])
    script.answers["RegisterVersion"] = registry.RegisterVersionResponse(
        version=registry.ModelVersion(state=registry.VERSION_STATE_VALIDATING)
    )
    script.answers["GetVersion"] = lambda _: registry.GetVersionResponse(
        version=registry.ModelVersion(model="iris", version="1.0.0", state=next(states))
    )
    document = answer(
        *("model", "register", "iris", str(path), "--version", "1.0.0"),
        *("--columns", "a, b", "--tag", "x", "--tag", "y", "--stage", "candidate"),
    )
    assert document["state"] == "ready"
    header, file, *chunks = script.asked[0]
    assert (header.header.model, header.header.version) == ("iris", "1.0.0")
    assert header.header.framework == registry.FRAMEWORK_ONNX
    assert header.header.stage == registry.STAGE_CANDIDATE
    assert header.header.approved_by != ""
    assert list(header.header.metadata.tags) == ["x", "y"]
    assert list(header.header.declared_signature.inputs[0].columns) == ["a", "b"]
    assert file.file.sha256 == sha256(path.read_bytes()).hexdigest()
    assert b"".join(part.chunk for part in chunks) == path.read_bytes()


def test_a_version_that_fails_validation_fails_the_command(
    script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "iris.onnx"
    path.write_bytes(b"x")
    failed = registry.ModelVersion(
        model="iris",
        version="1",
        state=registry.VERSION_STATE_FAILED,
        failure_reason="NOT_ONNX",
        failure_message="it is no ONNX file",
    )
    script.answers["RegisterVersion"] = registry.RegisterVersionResponse(version=failed)
    script.answers["GetVersion"] = registry.GetVersionResponse(version=failed)
    assert run(["model", "register", "iris", str(path), "--version", "1"]) == 1
    assert "it is no ONNX file [NOT_ONNX]" in capsys.readouterr().err


def test_a_version_that_failed_is_validated_again_and_waited_for(script: Script, answer: Callable[..., Any]) -> None:
    validating = registry.ModelVersion(model="iris", version="1", state=registry.VERSION_STATE_VALIDATING)
    ready = registry.ModelVersion(model="iris", version="1", state=registry.VERSION_STATE_READY)
    script.answers["RevalidateVersion"] = registry.RevalidateVersionResponse(version=validating)
    script.answers["GetVersion"] = registry.GetVersionResponse(version=ready)
    assert answer("model", "revalidate", "iris", "1")["state"] == "ready"
    assert answer("model", "revalidate", "iris", "1", "--no-wait")["state"] == "validating"


def test_register_of_a_missing_file_is_a_usage_error(script: Script) -> None:
    assert run(["model", "register", "iris", "missing.onnx", "--version", "1"]) == 2
    assert script.asked == []


class Ladder:
    """A version that climbs, as the registry would let it."""

    def __init__(self, script: Script, stage: registry.Stage.ValueType, stops_at: int = 99) -> None:
        self.stage = stage
        self.stops_at = stops_at
        script.answers["GetVersion"] = lambda _: registry.GetVersionResponse(version=version_in(self.stage))
        script.answers["PromoteVersion"] = self.climb

    def climb(self, request: registry.PromoteVersionRequest) -> Any:
        if request.to_stage >= self.stops_at:
            return errors.PermissionDenied("your role is too weak", reason="ROLE_TOO_WEAK")
        self.stage = request.to_stage or registry.Stage.ValueType(self.stage + 1)
        live = self.stage == registry.STAGE_PRODUCTION
        return registry.PromoteVersionResponse(
            version=version_in(self.stage), replaced=registry.ModelVersion(version="1.0.0") if live else None
        )


def test_promote_to_production_climbs_step_by_step(script: Script, answer: Callable[..., Any]) -> None:
    Ladder(script, registry.STAGE_DEVELOPMENT)
    document = answer("model", "promote", "iris", "2.0.0", "--to", "production", "--note", "good", "--approver", "ada")
    assert document["moves"] == [
        {"from_stage": "development", "to_stage": "candidate"},
        {"from_stage": "candidate", "to_stage": "staging"},
        {"from_stage": "staging", "to_stage": "production", "replaced": "1.0.0"},
    ]
    assert document["version"]["stage"] == "production"
    asked = [request for request in script.asked if isinstance(request, registry.PromoteVersionRequest)]
    assert {(request.approved_by, request.note) for request in asked} == {("ada", "good")}


def test_promote_that_fails_half_way_says_how_far_it_came(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    Ladder(script, registry.STAGE_CANDIDATE, stops_at=registry.STAGE_PRODUCTION)
    assert run(["model", "promote", "iris", "2.0.0", "--to", "production", "--note", "good"]) == 5
    printed = capsys.readouterr()
    assert printed.out == "iris 2.0.0  candidate → staging\n"
    assert printed.err == "penstock: your role is too weak; iris 2.0.0 came as far as staging [ROLE_TOO_WEAK]\n"


def test_promote_without_a_stage_takes_one_step(script: Script, answer: Callable[..., Any]) -> None:
    Ladder(script, registry.STAGE_DEVELOPMENT)
    assert len(answer("model", "promote", "iris", "2.0.0")["moves"]) == 1


@pytest.mark.parametrize("stage", ["archived", "development"])
def test_promote_off_the_way_up_is_a_single_move(script: Script, answer: Callable[..., Any], stage: str) -> None:
    Ladder(script, registry.STAGE_STAGING)
    assert len(answer("model", "promote", "iris", "2.0.0", "--to", stage)["moves"]) == 1


def test_promote_to_where_it_is_or_live_without_a_note_moves_nothing(script: Script) -> None:
    Ladder(script, registry.STAGE_STAGING)
    assert run(["model", "promote", "iris", "2.0.0", "--to", "staging"]) == 1
    assert run(["model", "promote", "iris", "2.0.0", "--to", "production"]) == 2
    assert not any(isinstance(request, registry.PromoteVersionRequest) for request in script.asked)


def test_rollback_says_what_is_live_again(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers["RollbackModel"] = registry.RollbackModelResponse(
        version=registry.ModelVersion(version="1.0.0"), replaced=registry.ModelVersion(version="2.0.0")
    )
    assert run(["model", "rollback", "iris", "--note", "worse", "--approver", "ada"]) == 0
    assert capsys.readouterr().out == "iris 1.0.0 is live again; 2.0.0 is archived\n"
    assert script.asked[0].note == "worse"


def test_history_shows_who_moved_what_where_and_why(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    move = registry.Transition(
        version="2.0.0",
        from_stage=registry.STAGE_STAGING,
        to_stage=registry.STAGE_PRODUCTION,
        kind=registry.TRANSITION_KIND_PROMOTE,
        promoted_by="bob",
        approved_by="ada",
        note="it\nwas\x1b[31m better",
    )
    script.answers["ListTransitions"] = registry.ListTransitionsResponse(transitions=[move])
    assert run(["model", "history", "iris"]) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == [
        "2.0.0",
        "staging",
        "→",
        "production",
        "bob",
        "ada",
        "promote",
        "it",
        "was",
        "[31m",
        "better",
    ]


def test_versions_and_get_show_stage_state_and_signature(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    version = version_in(
        registry.STAGE_PRODUCTION,
        framework=registry.FRAMEWORK_ONNX,
        files=[registry.File(path="iris.onnx", sha256="ab", size_bytes=2048)],
    )
    spec = version.signature.inputs.add(name="X", datatype="DATA_TYPE_FP32", shape=[-1, 2], columns=["a", "b"])
    version.validation.opset = 17
    assert spec.name == "X"
    script.answers["ListVersions"] = registry.ListVersionsResponse(versions=[version])
    script.answers["GetVersion"] = registry.GetVersionResponse(version=version)
    script.answers["ResolveVersion"] = registry.ResolveVersionResponse(version=version)
    assert run(["model", "versions", "iris", "--stage", "production", "--state", "ready"]) == 0
    assert run(["model", "get", "iris", "2.0.0"]) == 0
    assert run(["model", "get", "iris", "Production"]) == 0
    printed = capsys.readouterr().out
    assert "X FP32 [-1, 2] (a, b)" in printed
    assert "production  ready" in printed
    listed, exact, resolved = script.asked
    assert (listed.stage, listed.state) == (registry.STAGE_PRODUCTION, registry.VERSION_STATE_READY)
    assert exact.version == "2.0.0"
    assert resolved.selector == "Production"


def test_download_brings_verified_files_and_overwrites_only_by_force(
    script: Script, answer: Callable[..., Any], tmp_path: Path
) -> None:
    content = b"weights"
    file = registry.File(path="sub/iris.onnx", sha256=sha256(content).hexdigest(), size_bytes=len(content))
    script.answers["ResolveVersion"] = registry.ResolveVersionResponse(
        version=version_in(registry.STAGE_PRODUCTION, files=[file])
    )
    script.answers["DownloadFile"] = [
        registry.DownloadFileResponse(file=file),
        registry.DownloadFileResponse(chunk=content),
    ]
    target = tmp_path / "out" / "sub" / "iris.onnx"
    assert answer("model", "download", "iris", "--to", "out")["files"] == [str(target)]
    assert target.read_bytes() == content
    target.write_bytes(b"mine")
    assert run(["model", "download", "iris", "--to", "out"]) == 4
    assert target.read_bytes() == b"mine"
    assert run(["model", "download", "iris", "--to", "out", "--file", "other"]) == 3
    answer("model", "download", "iris", "--to", "out", "--force")
    assert target.read_bytes() == content


def test_a_download_that_does_not_match_its_digest_leaves_nothing(script: Script, tmp_path: Path) -> None:
    file = registry.File(path="iris.onnx", sha256="0" * 64, size_bytes=3)
    script.answers["ResolveVersion"] = registry.ResolveVersionResponse(
        version=version_in(registry.STAGE_PRODUCTION, files=[file])
    )
    script.answers["DownloadFile"] = [registry.DownloadFileResponse(file=file, chunk=b"bad")]
    assert run(["model", "download", "iris", "--to", "out"]) == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(script: Script, path: str) -> None:
    script.answers["ResolveVersion"] = registry.ResolveVersionResponse(
        version=version_in(registry.STAGE_PRODUCTION, files=[registry.File(path=path, sha256="0", size_bytes=1)])
    )
    assert run(["model", "download", "iris"]) == 1
    assert len(script.asked) == 1
