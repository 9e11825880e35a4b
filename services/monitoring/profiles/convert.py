"""Between the contract's messages and our dataclasses. Requests are checked here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from services.common import timestamps
from services.common.datasets import SCHEME
from services.common.errors import FieldViolation, InvalidArgument
from services.monitoring.checks import MAX_CHARS
from services.monitoring.models import Window
from services.monitoring.profiles.encode import profile_proto
from services.monitoring.profiles.models import FeatureKind
from services.monitoring.profiles.reference import MAX_FEATURES, Columns
from services.monitoring.profiles.references import no_profile
from services.monitoring.profiles.sources import FileSource, NewProfile, Page, RowFormat, WindowSource

MAX_NOTE_CHARS = 1_000
MAX_NAME_CHARS = 1_024
MAX_URI_CHARS = 4_096
MAX_CHUNK_BYTES = 4 * 1024 * 1024
MAX_REQUEST_ID_CHARS = 128
LONGEST_WINDOW = timedelta(days=14)
"""Of live traffic that a profile is made of: two whole weeks."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
Upload = tuple[NewProfile, RowFormat, str, Iterator[bytes]]


def upload_from(requests: Iterator[pb.UploadProfileRequest]) -> Upload:
    """Read the header of an upload: the profile to make, the format, the digest; and the bytes as they arrive.

    Raises:
        InvalidArgument: HEADER_REQUIRED, MODEL_REQUIRED, VERSION_REQUIRED, FORMAT_REQUIRED, DIGEST_MALFORMED,
            INVALID_COLUMNS, INVALID_TEXT; with the bytes, TOO_LARGE.
    """
    first = next(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidArgument("the first message of an upload is its header", reason="HEADER_REQUIRED")
    header = first.header
    new = NewProfile(
        *_version_of(header),
        columns=_columns(header.columns),
        note=_text("note", header.note, MAX_NOTE_CHARS),
        request_id=_text("header.request_id", header.request_id, MAX_REQUEST_ID_CHARS),
        body_sha256=_body_sha256(header),
    )
    sha256 = _digest("header.sha256", header.sha256) if header.sha256 else ""
    return new, _row_format("header.format", header.format), sha256, _chunks(requests)


def _chunks(requests: Iterator[pb.UploadProfileRequest]) -> Iterator[bytes]:
    for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidArgument("after the header come chunks alone", reason="HEADER_REQUIRED")
        if len(request.chunk) > MAX_CHUNK_BYTES:
            sentence = f"got {len(request.chunk):,} bytes; at most {MAX_CHUNK_BYTES:,} are allowed in a chunk"
            raise InvalidArgument.field("chunk", sentence, reason="TOO_LARGE")
        yield request.chunk


def new_from(request: pb.CreateProfileRequest) -> tuple[NewProfile, FileSource | WindowSource]:
    """Read what to make, and of what; raises InvalidArgument as the contract says."""
    model, version = _version_of(request)
    new = NewProfile(
        model,
        version,
        columns=_columns(request.columns),
        note=_text("note", request.note, MAX_NOTE_CHARS),
        request_id=_text("request_id", request.request_id, MAX_REQUEST_ID_CHARS),
        body_sha256=_body_sha256(request),
    )
    match request.WhichOneof("source"):
        case "file":
            return new, _file(request.file)
        case "window":
            return new, WindowSource(_window(request.window))
    raise InvalidArgument.field(
        "source", "nothing came; say of which file or window the profile is to be", reason="SOURCE_REQUIRED"
    )


def profile_id_from(text: str) -> UUID:
    """Read a profile's id; what is none names no profile (PROFILE_NOT_FOUND)."""
    try:
        return UUID(text)
    except ValueError as error:
        raise no_profile(f"there is no profile {text[:64]!r}") from error


def asked_from(request: pb.GetProfileRequest) -> UUID | tuple[str, str]:
    """Read which profile is meant: by its id, or by the model and the version that it is attached to.

    Raises:
        InvalidArgument: MODEL_REQUIRED.
        NotFound: the id is none (PROFILE_NOT_FOUND).
    """
    if request.id:
        return profile_id_from(request.id)
    model = _text("model", request.model, MAX_CHARS["model"])
    if not model:
        sentence = "neither it nor an id came; give the profile's id, or a model and a version of it"
        raise InvalidArgument.field("model", sentence, reason="MODEL_REQUIRED")
    return model, _text("version", request.version, MAX_CHARS["version"])


def filters_from(request: pb.ListProfilesRequest) -> tuple[str, str]:
    """Read a list's model and version; raises InvalidArgument naming the field."""
    return (
        _text("model", request.model, MAX_CHARS["model"]),
        _text("version", request.version, MAX_CHARS["version"]),
    )


def attach_from(request: pb.AttachProfileRequest) -> tuple[UUID, str]:
    """Read which profile, and the version; raises InvalidArgument (VERSION_REQUIRED), NotFound."""
    version = _text("version", request.version, MAX_CHARS["version"])
    if not version:
        raise InvalidArgument.field("version", "it is empty; name the version", reason="VERSION_REQUIRED")
    return profile_id_from(request.id), version


def list_response(page: Page) -> pb.ListProfilesResponse:
    """Encode a page."""
    return pb.ListProfilesResponse(profiles=map(profile_proto, page.profiles), next_page_token=page.next_page_token)


def _version_of(request: pb.UploadProfileHeader | pb.CreateProfileRequest) -> tuple[str, str]:
    for name in ("model", "version"):
        if not _text(name, getattr(request, name), MAX_CHARS[name]):
            raise InvalidArgument.field(name, f"it is empty; name the {name}", reason=f"{name.upper()}_REQUIRED")
    return request.model, request.version


def _text(name: str, value: str, most: int) -> str:
    if len(value) > most or "\0" in value:
        sentence = f"got {len(value)} characters; at most {most} are allowed, and no NUL"
        raise InvalidArgument.field(name, sentence, reason="INVALID_TEXT")
    return value


def _columns(message: pb.Columns) -> Columns:
    kinds = {name: _kind(name, kind) for name, kind in message.kinds.items() if kind}
    names = [*message.kinds, *message.ignored, *message.predictions, message.label, message.group]
    if len(names) > 5 * MAX_FEATURES:
        sentence = f"got {len(names)} names; at most {5 * MAX_FEATURES} are allowed"
        raise InvalidArgument.field("columns", sentence, reason="INVALID_COLUMNS")
    for name in names:
        _text("columns", name, MAX_NAME_CHARS)
    roles = [*dict.fromkeys(message.ignored), *message.predictions, message.label, message.group]
    roles = [name for name in roles if name]
    twice = sorted({name for name in roles if roles.count(name) > 1}) if len(roles) < MAX_FEATURES else []
    if twice:
        sentence = (
            f"column {twice[0]!r} is said to be several things; a column is one of ignored, prediction, label, group"
        )
        raise InvalidArgument.field("columns", sentence, reason="INVALID_COLUMNS")
    return Columns(kinds, frozenset(message.ignored), tuple(message.predictions), message.label, message.group)


def _kind(name: str, number: int) -> FeatureKind:
    try:
        return FeatureKind(number)
    except ValueError as error:
        sentence = f"{name[:128]!r} has kind {number}; one of FeatureKind is allowed"
        raise InvalidArgument.field("columns.kinds", sentence, reason="INVALID_COLUMNS") from error


def _row_format(field: str, number: int) -> RowFormat:
    try:
        return RowFormat(number)
    except ValueError as error:
        sentence = f"got {number}; say how the rows are written: JSONL, PARQUET or CSV"
        raise InvalidArgument.field(field, sentence, reason="FORMAT_REQUIRED") from error


def _digest(field: str, text: str) -> str:
    if not _SHA256.fullmatch(text):
        sentence = f"got {text[:80]!r}; a SHA-256 is 64 hex digits in lower case"
        raise InvalidArgument.field(field, sentence, reason="DIGEST_MALFORMED")
    return text


def _file(file: pb.FileSource) -> FileSource:
    uri = _text("file.uri", file.uri, MAX_URI_CHARS)
    if uri.startswith(SCHEME):
        return FileSource(uri, "", RowFormat.PARQUET)
    return FileSource(uri, _digest("file.sha256", file.sha256), _row_format("file.format", file.format))


def _window(window: pb.WindowSource) -> Window:
    times = []
    for name in ("from_time", "to_time"):
        if not window.HasField(name):
            raise InvalidArgument.field(f"window.{name}", "it is missing; give both ends", reason="INVALID_WINDOW")
        times.append(timestamps.read(f"window.{name}", getattr(window, name)))
    if times[0] >= times[1]:
        sentence = f"{times[0].isoformat()} is not before to_time {times[1].isoformat()}; give an earlier one"
        raise InvalidArgument.field("window.from_time", sentence, reason="INVALID_WINDOW")
    if times[1] - times[0] > LONGEST_WINDOW:
        days, most = (times[1] - times[0]) / timedelta(days=1), f"at most {LONGEST_WINDOW.days} days are read"
        sentence = f"the window is {days:.1f} days long, and {most}; give a shorter one"
        # The field is named to programs alone: who gave a length never said when it begins.
        violations = (FieldViolation("window.from_time", most),)
        raise InvalidArgument(sentence, reason="INVALID_WINDOW", violations=violations)
    return Window(*times)


def _body_sha256(request: pb.CreateProfileRequest | pb.UploadProfileHeader) -> bytes:
    body = type(request).FromString(request.SerializeToString())
    body.ClearField("request_id")
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()
