"""What a script is made of: its files, whether they are Python, and whether its entry defines train(context)."""

from __future__ import annotations

import ast
import keyword
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.machinery import BYTECODE_SUFFIXES
from typing import BinaryIO, Final

from services.common import checks
from services.common.archives import ArchiveLimits, Entry, entries
from services.common.archives.zip_file import is_zip
from services.common.errors import InvalidArgument, ResourceExhausted
from services.common.file_names import DistinctPaths
from services.trainer.recipes.script_package import module_of
from services.trainer.scripts.models import Contents

MAX_SENT_BYTES: Final = 16 * 1024 * 1024
MAX_SOURCE_BYTES: Final = 1024 * 1024
LIMITS: Final = ArchiveLimits(max_bytes=64 * 1024 * 1024, max_entries=1_000)
DEFAULT_ENTRY: Final = "train.py"
_PACKAGE_ENTRY: Final = "train/__init__.py"
_TRAIN: Final = "train"
_INIT, _SUFFIX = "__init__", ".py"
_MAGIC_BYTES, _CHUNK_BYTES = 4, 1024 * 1024
_COMPILED: Final = (".so", ".pyd", *BYTECODE_SUFFIXES)
"""What Python may run in place of a source beside it, which is all that was looked at."""
_TAKEN: Final = sys.stdlib_module_names | {"__main__", "penstock", "services"}
"""Modules that are there when a script is imported: one of these names is never the script's own."""


class ScriptTooLarge(ResourceExhausted):
    """A script beyond a limit: the same again is refused again."""

    default_reason = "TOO_LARGE"
    retryable = False


def contents_of(source: BinaryIO, entry: str) -> Contents:
    """Read a script through. Its Python is compiled, and never run; `entry` may be '', see the contract.

    Raises:
        InvalidArgument: INVALID_ENTRY, ENTRY_NOT_FOUND, SYNTAX_ERROR, NO_TRAIN, NO_FILES, DUPLICATE_PATH,
            RESERVED_NAME, COMPILED_CODE, ARCHIVE_UNREADABLE, ARCHIVE_UNSAFE, ARCHIVE_TOO_LARGE.
        ScriptTooLarge: one Python file is.
    """
    if entry:
        check_entry(entry)
    source.seek(0)
    packed = is_zip(source.read(_MAGIC_BYTES))
    source.seek(0)
    sizes: dict[str, int] = {}
    entries: dict[str, bytes] = {}
    wanted = (entry,) if entry else (DEFAULT_ENTRY, _PACKAGE_ENTRY)
    for file in _files_in(source) if packed else [_only(source, entry or DEFAULT_ENTRY)]:
        if not file.path.endswith(".py"):
            sizes[file.path] = sum(map(len, file.chunks))
            continue
        code = _read(file)
        sizes[file.path] = len(code)
        _compile(file.path, code)
        if file.path in wanted:
            entries[file.path] = code
    if not any(sizes.values()):
        raise InvalidArgument("nothing was sent; send a Python file, or a zip of some", reason="NO_FILES")
    found = next((each for each in wanted if each in entries), None)
    if found is None:
        raise _without_entry(entry, sizes)
    _check_train(found, entries[found])
    return Contents(packed, found, dict(sorted(sizes.items())))


def check_entry(entry: str) -> None:
    """Raise InvalidArgument (INVALID_ENTRY) unless a path is that of a module that can be imported."""
    *folders, file = entry.split("/")
    parts = [*folders, file.removesuffix(_SUFFIX)]
    if folders and parts[-1] == _INIT:
        parts.pop()
    named = all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    if not named or not file.endswith(_SUFFIX) or parts[-1] == _INIT or len(entry) > checks.MAX_PATH_CHARS:
        sentence = f"got {checks.shown(entry)}; name a file that can be imported, such as train.py or trees/fit.py"
        raise InvalidArgument.field("header.entry", sentence, reason="INVALID_ENTRY")
    if parts[0] in _TAKEN:
        raise InvalidArgument.field("header.entry", _taken(entry, parts[0]), reason="INVALID_ENTRY")


def _only(source: BinaryIO, entry: str) -> Entry:
    return Entry(entry, iter(lambda: source.read(_CHUNK_BYTES), b""))


def _files_in(source: BinaryIO) -> Iterator[Entry]:
    names = DistinctPaths()
    modules: dict[str, str] = {}
    for file in entries(source, "script.zip", LIMITS):
        other = names.take(file.path)
        if file.path.endswith(_SUFFIX):
            # Of train.py and train/__init__.py, only the second would ever run.
            other = other or modules.setdefault(module_of(file.path), file.path)
            _check_name(file.path)
        if other and other != file.path:
            sentence = f"{checks.shown(file.path)} and {checks.shown(other)} can't both be; rename or leave out one"
            raise InvalidArgument(sentence, reason="DUPLICATE_PATH")
        if file.path.lower().endswith(_COMPILED):
            sentence = f"{checks.shown(file.path)} is compiled code, which nobody can look through"
            raise InvalidArgument(f"{sentence}; leave it out, and send Python alone", reason="COMPILED_CODE")
        yield file


def _check_name(path: str) -> None:
    top = module_of(path).partition(".")[0]
    if top in _TAKEN:
        raise InvalidArgument(_taken(path, top), reason="RESERVED_NAME")


def _taken(path: str, module: str) -> str:
    sentence = f"{checks.shown(path)} would not be what `import {module}` gives, which is a module of the trainer's own"
    return f"{sentence}; call it otherwise, or move it into a folder of another name"


def _read(file: Entry) -> bytes:
    code = bytearray()
    for chunk in file.chunks:
        code += chunk
        if len(code) > MAX_SOURCE_BYTES:
            sentence = (
                f"{checks.shown(file.path)} has more than the {MAX_SOURCE_BYTES:,} bytes that one Python file may"
            )
            raise ScriptTooLarge(f"{sentence}; divide it, and keep data in files of other names")
    return bytes(code)


def _compile(path: str, code: bytes) -> None:
    """Compile bytes as an import does, which heeds what a file says of its encoding; raises InvalidArgument."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would be printed, with a look at a file that is not there
            compile(code, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise _no_python(path, _why(error)) from None
    except ValueError as error:
        raise _no_python(path, str(error)) from None
    except (RecursionError, MemoryError):
        raise _no_python(path, "it is nested too deeply to be compiled") from None


def _why(error: SyntaxError) -> str:
    where = f"line {error.lineno}: " if error.lineno else ""
    advice = ""
    if "encoding" in error.msg:
        advice = "; write it in UTF-8"
    elif "'utf-8' codec" in error.msg:
        advice = "; write it in UTF-8, or name its encoding in the first line"
    return f"{where}{error.msg}{advice}"


def _check_train(path: str, code: bytes) -> None:
    try:
        named = list(_binding(ast.parse(code).body))
    except (RecursionError, MemoryError):
        raise _no_python(path, "it is nested too deeply to be compiled") from None
    if not named:
        sentence = f"{path} defines no function train(context); write one, or name the file that has it as the entry"
        raise InvalidArgument.field("header.entry", sentence, reason="NO_TRAIN")
    last = named[-1]
    if isinstance(last, ast.AsyncFunctionDef | ast.ClassDef) or (
        isinstance(last, ast.FunctionDef) and not _takes_one(last.args)
    ):
        sentence = f"{path} line {last.lineno}: train is to be a function of one argument, train(context)"
        raise InvalidArgument.field("header.entry", sentence, reason="NO_TRAIN")


def _binding(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Give the statements of a module that give `train` a meaning, in their order."""
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names = {name}
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names = {alias.asname or alias.name for alias in aliases}
            case ast.Assign(targets=targets):
                names = {each.id for each in targets if isinstance(each, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                names = {name}
            case _:
                names = set()
        if _TRAIN in names:
            yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for field in ("body", "handlers", "orelse", "finalbody"):
                for inner in getattr(statement, field, ()):
                    yield from _binding(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def _takes_one(arguments: ast.arguments) -> bool:
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    return required <= 1 and (positional > 0 or arguments.vararg is not None) and None not in arguments.kw_defaults


def _without_entry(entry: str, sizes: dict[str, int]) -> InvalidArgument:
    there = ", ".join(checks.shown(path) for path in sorted(sizes)[:8])
    wanted = entry or f"{DEFAULT_ENTRY}, nor {_PACKAGE_ENTRY}"
    sentence = f"there is no {wanted} in it; name the file with train(context) as the entry. There are {there}"
    return InvalidArgument.field("header.entry", sentence, reason="ENTRY_NOT_FOUND")


def _no_python(path: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{checks.shown(path)} is no Python: {what[:200]}", reason="SYNTAX_ERROR")
