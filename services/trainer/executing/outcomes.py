"""Reads what a recipe left behind, and believes none of it unseen."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from services.common.file_names import DistinctPaths
from services.trainer.faults import TrainingFailed
from services.trainer.task import UNKEPT, Outcome, RunFolder

FRAMEWORKS: Final = frozenset({"ONNX", "TENSORFLOW", "TRANSFORMERS"})
"""Of which a recipe can leave files, as the registry names them."""
TASK_TYPES: Final = frozenset({"", "binary-classification", "classification", "regression"})
MAX_OUTCOME_BYTES: Final = 2 * 1024**2
MAX_FILES: Final = 10_000
MAX_PATH_CHARS: Final = 512
MAX_COLUMNS: Final = 10_000
MAX_WORD_CHARS: Final = 1_000
MAX_NOTES: Final = 100
MAX_METADATA_BYTES: Final = 64 * 1024
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")


def read_outcome(folder: RunFolder, max_artifact_bytes: int) -> Outcome:
    """Read and check what a recipe left, once nothing of it runs any more.

    Raises:
        TrainingFailed: INVALID_OUTCOME: it is not what was asked for; TOO_MUCH_OUTPUT: its files are too large.
    """
    check_files(folder.artifact, max_artifact_bytes)
    try:
        return checked_outcome(json.loads(_bytes_of(folder.outcome), parse_constant=_no_number))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        sentence = f"the recipe's outcome is not what was asked for: {str(error)[:MAX_WORD_CHARS]}"
        raise TrainingFailed(sentence, reason="INVALID_OUTCOME") from error


def checked_outcome(content: Any) -> Outcome:
    """Bound what a recipe says of its outcome; raises ValueError, TypeError, KeyError, AttributeError."""
    for text in _texts(content):
        if UNKEPT.search(text):
            raise ValueError(f"{text[:80]!r} has a NUL or half a surrogate pair in it, which nothing can keep")
    outcome = Outcome.of(content)
    if outcome.framework not in FRAMEWORKS:
        raise ValueError(f"framework {outcome.framework!r}; one of {', '.join(sorted(FRAMEWORKS))} is known")
    if outcome.task_type not in TASK_TYPES:
        raise ValueError(f"task type {outcome.task_type!r} is none of {', '.join(sorted(TASK_TYPES - {''}))}")
    if not _DIGEST.fullmatch(outcome.code_sha256):
        raise ValueError("code_sha256 is no SHA-256 in lowercase hex")
    for name, items in (
        ("features", outcome.features),
        ("classes", outcome.classes),
        ("environment", outcome.environment),
    ):
        if len(items) > MAX_COLUMNS:
            raise ValueError(f"{len(items)} {name}; {MAX_COLUMNS} at most")
    if len(outcome.notes) > MAX_NOTES:
        raise ValueError(f"{len(outcome.notes)} notes; {MAX_NOTES} at most")
    for word in _words(outcome):
        if not isinstance(word, str) or len(word) > MAX_WORD_CHARS:
            raise ValueError(f"{str(word)[:80]!r} is not text of at most {MAX_WORD_CHARS} characters")
    names = [column.name for column in outcome.features]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError("a feature column has no name, or that of another")
    if not isinstance(outcome.metadata, dict) or len(json.dumps(outcome.metadata)) > MAX_METADATA_BYTES:
        raise ValueError(f"the metadata is no object of at most {MAX_METADATA_BYTES} bytes")
    return outcome


def check_files(artifact: Path, max_bytes: int) -> None:
    """Check that a version's files are files, below their folder, with names that mean one file everywhere.

    Raises:
        TrainingFailed: INVALID_OUTCOME, TOO_MUCH_OUTPUT.
    """
    taken, total_bytes = DistinctPaths(), 0
    try:
        for path, size_bytes in _files(artifact):
            _check_path(path, taken)
            total_bytes += size_bytes
    except (ValueError, OSError) as error:
        said = str(error).encode("utf-8", "replace").decode()  # a file's name may be no text
        raise TrainingFailed(f"the recipe left what is no version: {said}", reason="INVALID_OUTCOME") from error
    if not taken:
        raise TrainingFailed("the recipe left no file of a version in out/artifact", reason="INVALID_OUTCOME")
    if total_bytes > max_bytes:
        sentence = f"the version's files have {total_bytes} bytes; {max_bytes} at most are kept"
        raise TrainingFailed(sentence, reason="TOO_MUCH_OUTPUT")


def _files(artifact: Path) -> Iterator[tuple[str, int]]:
    for ours in (artifact.parent, artifact):
        if not stat.S_ISDIR(ours.lstat().st_mode):
            raise ValueError(f"{ours.name} is no folder")
    for folder, folders, files in os.walk(artifact, followlinks=False):
        for name in (*folders, *files):
            found = Path(folder, name)
            kind = found.lstat()
            if not (stat.S_ISREG(kind.st_mode) or stat.S_ISDIR(kind.st_mode)):
                raise ValueError(f"{found.relative_to(artifact)} is neither a file nor a folder")
            if stat.S_ISREG(kind.st_mode):
                if kind.st_nlink > 1:  # the other name may lie anywhere
                    raise ValueError(f"{found.relative_to(artifact)} is a link")
                yield found.relative_to(artifact).as_posix(), kind.st_size


def _check_path(path: str, taken: DistinctPaths) -> None:
    if len(taken) >= MAX_FILES:
        raise ValueError(f"more than {MAX_FILES} files")
    if len(path) > MAX_PATH_CHARS or not path.isprintable() or "\\" in path:
        raise ValueError(f"the file name {path[:80]!r}: at most {MAX_PATH_CHARS} printable characters, no backslash")
    if other := taken.take(path):
        raise ValueError(f"{path!r} and {other!r} are one file to some file systems")


def _texts(content: Any) -> Iterator[str]:
    """Give all texts of what was read from JSON, keys as well."""
    left = [content]
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            left += (*each, *each.values())
        elif isinstance(each, list | tuple):
            left += each


def _words(outcome: Outcome) -> Iterator[Any]:
    yield from (outcome.label, outcome.input_name)
    yield from (word for column in outcome.features for word in (column.name, column.datatype))
    yield from outcome.classes
    yield from outcome.notes
    yield from (word for item in outcome.environment.items() for word in item)


def _bytes_of(path: Path) -> bytes:
    """Read a small file that is no link, and no pipe that would be waited for."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError("there is no outcome.json") from error
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise ValueError("outcome.json is no file")
        content = file.read(MAX_OUTCOME_BYTES + 1)
    if len(content) > MAX_OUTCOME_BYTES:
        raise ValueError(f"outcome.json has more than {MAX_OUTCOME_BYTES} bytes")
    return content


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no finite number")
