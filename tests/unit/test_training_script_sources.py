"""Scripts as they are looked through before they are kept: what is in them, and what is wrong with them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from penstock.errors import InvalidArgument as TheyRefuse
from penstock.scripts import pack
from services.common.errors import DomainError
from services.trainer.recipes.script_package import module_of
from services.trainer.scripts.sources import check_entry, contents_of

GOOD = b"def train(context): pass\n"


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return out.getvalue()


def reason_of(source: bytes, entry: str = "") -> str:
    with pytest.raises(DomainError) as caught:
        contents_of(io.BytesIO(source), entry)
    return caught.value.reason


@pytest.mark.parametrize(
    "code",
    [
        "def train(context): return {}",
        "def train(context, depth=3, *more, seed=0): return {}",
        "def train(*told): return {}",
        "from .fitting import train",
        "from fitting import fit as train",
        "train = print",
        "train: object = print",
        "try:\n    from fast import train\nexcept ImportError:\n    def train(context): return {}",
        "def train(): pass\ndef train(context): return {}",
        "\ufeffdef train(context): return 'ä'",
        "raise SystemExit\ndef train(context): return {}",
    ],
)
def test_whatever_gives_train_a_meaning_will_do_and_nothing_of_it_is_run(code: str) -> None:
    found = contents_of(io.BytesIO(code.encode()), "")
    assert (found.packed, found.entry, found.files) == (False, "train.py", {"train.py": len(code.encode())})


@pytest.mark.parametrize(
    "code",
    [
        "def train(): pass",
        "def train(context, depth): pass",
        "def train(context, *, depth): pass",
        "async def train(context): pass",
        "class train: pass",
        "def fit():\n    def train(context): pass",
        "class Fit:\n    def train(self): pass",
        "train: object",
        "'train'",
    ],
)
def test_what_gives_it_none_is_refused(code: str) -> None:
    assert reason_of(code.encode()) == "NO_TRAIN"


@pytest.mark.parametrize(
    ("source", "entry", "reason"),
    [
        (b"", "", "NO_FILES"),
        (zipped({}), "", "NO_FILES"),
        (zipped({"train.py": GOOD, "more.py": b"return 5"}), "", "SYNTAX_ERROR"),
        (bytes(range(256)), "", "SYNTAX_ERROR"),
        (b"x = 1\0", "", "SYNTAX_ERROR"),
        (b"(" * 5_000, "", "SYNTAX_ERROR"),
        (zipped({"main.py": GOOD}), "", "ENTRY_NOT_FOUND"),
        (zipped({"train.py": GOOD}), "main.py", "ENTRY_NOT_FOUND"),
        (zipped({"train.py": GOOD, "../../etc/cron.py": b""}), "", "ARCHIVE_UNSAFE"),
        (zipped({"train.py": GOOD, "/etc/cron.py": b""}), "", "ARCHIVE_UNSAFE"),
        (zipped({"train.py": GOOD, "Train.py": b""}), "", "DUPLICATE_PATH"),
        (zipped({"train.py": GOOD, "train.py/x": b""}), "", "DUPLICATE_PATH"),
        (zipped({"train.py": GOOD, "train/__init__.py": b""}), "train.py", "DUPLICATE_PATH"),
        (zipped({"train/__init__.py": GOOD, "train.py": GOOD}), "", "DUPLICATE_PATH"),
        (zipped({"train.py": GOOD, "train.cpython-311-x86_64-linux-gnu.so": b"\x7fELF"}), "", "COMPILED_CODE"),
        (zipped({"train.py": GOOD, "__pycache__/train.cpython-311.pyc": b"\0"}), "", "COMPILED_CODE"),
        (zipped({"train.py": GOOD, "statistics.py": b""}), "", "RESERVED_NAME"),
        (zipped({"train.py": GOOD, "penstock/__init__.py": b""}), "", "RESERVED_NAME"),
        (zipped({"train.py": GOOD, "__main__.py": b""}), "", "RESERVED_NAME"),
        (b"# -*- coding: foo -*-\n" + GOOD, "", "SYNTAX_ERROR"),
        (zipped({f"{number}.txt": b"" for number in range(1_001)}), "", "ARCHIVE_TOO_LARGE"),
        (zipped({"train.py": GOOD})[:-10], "", "ARCHIVE_UNREADABLE"),
        (zipped({"train.py": GOOD}) + b"more", "", "ARCHIVE_UNREADABLE"),
    ],
)
def test_what_can_not_be_a_script_is_refused(source: bytes, entry: str, reason: str) -> None:
    assert reason_of(source, entry) == reason


@pytest.mark.parametrize(
    "entry", ["", "train", "../train.py", "/train.py", "a//train.py", "my-train.py", "class.py", "__init__.py", "1.py",
              "train.pyc", "a\\b.py", "a b.py", ".py", f"{'a' * 520}.py", "json.py", "services.py", "services/fit.py",
              "penstock/__init__.py", "__main__.py"],
)  # fmt: skip
def test_an_entry_is_a_path_that_can_be_imported(entry: str) -> None:
    with pytest.raises(DomainError) as caught:
        check_entry(entry)
    assert caught.value.reason == "INVALID_ENTRY"


def test_a_package_has_its_entry_where_it_says_or_where_it_is_looked_for() -> None:
    files = {"trees/__init__.py": b"from .fit import train", "trees/fit.py": GOOD, "trees/depth.txt": b"3"}
    found = contents_of(io.BytesIO(zipped(files)), "trees/__init__.py")
    assert (found.packed, found.entry, list(found.files)) == (True, "trees/__init__.py", sorted(files))
    assert contents_of(io.BytesIO(zipped({"train/__init__.py": GOOD})), "").entry == "train/__init__.py"
    assert [module_of(each) for each in ("train.py", "trees/fit.py", "trees/__init__.py")] == [
        "train", "trees.fit", "trees",
    ]  # fmt: skip


def test_a_file_is_read_in_the_encoding_that_it_names_and_told_of_it_where_it_is_in_none() -> None:
    latin = b"def train(context): return '\xe4'\n"
    assert contents_of(io.BytesIO(b"# -*- coding: latin-1 -*-\n" + latin), "").entry == "train.py"
    with pytest.raises(DomainError) as caught:
        contents_of(io.BytesIO(latin), "")
    assert "write it in UTF-8, or name its encoding in the first line" in caught.value.message


def test_a_folder_is_packed_to_the_same_bytes_without_what_is_no_part_of_it(tmp_path: Path) -> None:
    for path in ("train.py", "deep/data.txt", "__pycache__/train.pyc", ".git/config", ".venv/x.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(GOOD)
    first, again = io.BytesIO(), io.BytesIO()
    pack(tmp_path, first)
    os.utime(tmp_path / "train.py", (1e9, 1e9))
    pack(tmp_path, again)
    assert first.getvalue() == again.getvalue()
    assert list(contents_of(first, "").files) == ["deep/data.txt", "train.py"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TheyRefuse) as caught:
        pack(tmp_path / "empty", io.BytesIO())
    assert caught.value.reason == "NO_FILES"


def test_a_folder_that_would_be_refused_is_not_packed_to_its_end(tmp_path: Path) -> None:
    def why(folder: Path) -> TheyRefuse:
        out = io.BytesIO()
        with pytest.raises(TheyRefuse) as caught:
            pack(folder, out)
        assert out.tell() < 1024 * 1024
        return caught.value

    many, large, linked = (tmp_path / name for name in ("many", "large", "linked"))
    for folder in (many, large, linked):
        folder.mkdir()
        (folder / "train.py").write_bytes(GOOD)
    for number in range(1_000):
        (many / f"{number}.txt").touch()
    assert (why(many).reason, "it has more than 1,000 entries" in why(many).message) == ("ARCHIVE_TOO_LARGE", True)
    with (large / "rows.bin").open("wb") as rows:
        rows.truncate(1024**4)  # one that is read whole ends the process
    assert "more than 67,108,864 bytes" in why(large).message
    (linked / "secrets").symlink_to("/etc")
    assert (why(linked).reason, "is a symbolic link" in why(linked).message) == ("ARCHIVE_UNSAFE", True)
