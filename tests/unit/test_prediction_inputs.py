"""Where a job's input comes from: what fails for good, what may pass, what is not told, and what is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from minio import Minio
from minio.error import S3Error
from urllib3.exceptions import ProtocolError

from services.common.errors import DomainError, FailedPrecondition, Unavailable
from services.common.scratch import Scratch
from services.inference.jobs.inputs import InputFiles
from services.inference.jobs.models import FileFormat, FileInput
from services.inference.jobs.storage import allowed_files

URI = "s3://bucket/in/rows.csv"
S3 = "s3://bucket?endpoint=http://127.0.0.1:9"


def inputs(folder: Path, *roots: str, blob_url: str = "file:///blobs") -> InputFiles:
    stores = cast(Any, None)
    settings = SimpleNamespace(blob_url=blob_url, job_input_roots=roots, blob_access_key=None, blob_secret_key=None)
    allowed = allowed_files(cast(Any, settings))
    return InputFiles(stores, stores, allowed=allowed, max_bytes=1_000, max_unused_bytes=1_000, folder=folder)


def bring(files: InputFiles, uri: str) -> None:
    with files.brought(FileInput(uri, "0" * 64, FileFormat.CSV), lambda: None):
        pytest.fail("its digest is another")


def test_a_wrong_digest_is_not_answered_with_the_right_one_or_anything_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("alice,4711\n")
    files = inputs(tmp_path, tmp_path.as_uri())
    with pytest.raises(FailedPrecondition) as error:
        bring(files, (tmp_path / "secret.csv").as_uri())
    assert error.value.reason == "DIGEST_MISMATCH"
    said = error.value.message.replace("0" * 64, "").replace((tmp_path / "secret.csv").as_uri(), "")
    assert not any(character.isdigit() for character in said), "neither digest nor size"


def test_an_s3_server_that_is_down_is_a_fault_that_may_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's own pauses
    with pytest.raises(Unavailable) as error:
        bring(inputs(tmp_path, "s3://bucket/in", blob_url=S3), URI)
    assert error.value.reason == "INPUT_UNAVAILABLE"


@pytest.mark.parametrize(
    ("code", "kind"),
    [("NoSuchKey", FailedPrecondition), ("AccessDenied", FailedPrecondition), ("SlowDown", Unavailable)],
)
def test_what_an_s3_server_refuses_lasts_and_what_it_puts_off_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, kind: type[DomainError]
) -> None:
    def refuse(*_: object) -> None:
        raise S3Error(cast(Any, None), code, "no", "in/rows.csv", "1", "1")

    monkeypatch.setattr(Minio, "get_object", refuse)
    with pytest.raises(kind):
        bring(inputs(tmp_path, "s3://bucket/in", blob_url=S3), URI)


def test_an_object_that_is_cut_off_on_its_way_is_a_fault_that_may_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Cut:
        def stream(self, _: int) -> Iterator[bytes]:
            yield b"x"
            raise ProtocolError("connection broken")

        def close(self) -> None:
            pass

    monkeypatch.setattr(Minio, "get_object", lambda *_: Cut())
    with pytest.raises(Unavailable) as error:
        bring(inputs(tmp_path, "s3://bucket/in", blob_url=S3), URI)
    assert error.value.reason == "INPUT_UNAVAILABLE"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    living = Scratch(tmp_path, "penstock-jobs-")
    living.open()
    (living.folder / "input").write_bytes(b"mine")
    program = (
        "import sys, pathlib; from services.common.scratch import Scratch\n"
        "s = Scratch(pathlib.Path(sys.argv[1]), 'penstock-jobs-'); s.open()\n"
        "(s.folder / 'input').write_bytes(b'x' * 1000)\n"
        "print(s.folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as killed:
        assert killed.stdout is not None
        left = Path(killed.stdout.readline().strip())
        killed.send_signal(signal.SIGKILL)
    assert (left / "input").exists()
    next_one = Scratch(tmp_path, "penstock-jobs-")
    next_one.open()
    assert not left.exists()
    assert (living.folder / "input").read_bytes() == b"mine"
    next_one.close()
    living.close()
    assert list(tmp_path.iterdir()) == []


def test_a_root_of_the_whole_disk_is_the_disk_and_not_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1")
    with pytest.raises(FailedPrecondition) as error:
        bring(inputs(tmp_path, "file:///"), (tmp_path / "rows.csv").as_uri())
    assert error.value.reason == "DIGEST_MISMATCH", "it was read"
