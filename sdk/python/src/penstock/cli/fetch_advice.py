"""What to do next with a fetch: by how far it has come, and by the reason for which it failed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import sources_pb2

_BY_REASON: Final = {
    "NETWORK_ERROR": "see that the source can be reached from where the fetcher runs; then {again}",
    "RATE_LIMITED": "wait until the source has had its rest; then {again}",
    "STORAGE_ERROR": "see to the store that is named, the fetcher's own or the registry's (PENSTOCK_BLOB_URL of each), "
    "and to its disk; then {again}",
    "SOURCE_CHANGED": "it changed while it was read: once it stays as it is, {again}",
    "REGISTRY_UNAVAILABLE": "see that the registry is well, by `penstock status`; then {again}",
    "WORKER_LOST": "its workers died: see their logs; then {again}",
    "SECURITY": "if it is to be trusted, an administrator names its host in PENSTOCK_FETCHER_ALLOWED_HOSTS where the "
    "fetcher runs; then {anew}",
    "MODEL_NOT_FOUND": "see how it is called, and whether it is private; then {anew} with the right reference",
    "UNAUTHORIZED": "the fetcher has no credentials for it: see that everyone may read it; then {again}",
    "UNSUPPORTED_FRAMEWORK": "{inspect} shows what is there: {anew} with a {option}variant in ONNX, or with its "
    "{option}framework; what is in no format that is served must be exported first",
    "FILE_TOO_LARGE": "{inspect} shows whether there is a smaller variant; else an administrator raises "
    "PENSTOCK_FETCHER_MAX_FILE_BYTES or PENSTOCK_FETCHER_MAX_BYTES where the fetcher runs; then {again}",
    "DIGEST_MISMATCH": "the bytes are not those that were announced: ask whoever publishes them, and {anew} with the "
    "{option}sha256 that they name",
    "REGISTRATION_REFUSED": "mend what the registry names, and {anew}",
    "REGISTRY_UNAUTHORIZED": "an administrator gives the fetcher a key with the role operator, as "
    "PENSTOCK_SERVICE_TOKEN or in the file of PENSTOCK_SERVICE_TOKEN_FILE where it runs; then {again}",
    "UNKNOWN_VARIANT": "{inspect} lists the variants: {anew} with one of them as its {option}variant",
    "SOURCE_DISABLED": "an administrator sets what the error names, where the fetcher runs; then {again}",
    "CA_UNREADABLE": "an administrator mends the file of PENSTOCK_FETCHER_CA_FILE where the fetcher runs; then {again}",
    "S3_ENDPOINT_INVALID": "an administrator mends PENSTOCK_FETCHER_S3_ENDPOINT or PENSTOCK_FETCHER_S3_REGION where "
    "the fetcher runs; then {again}",
    "OCI_AUTH_FILE_INVALID": "an administrator mends the file of PENSTOCK_FETCHER_OCI_AUTH_FILE where the fetcher "
    "runs; then {again}",
    "UNKNOWN_SOURCE": "`penstock fetch sources` lists those of this fetcher: {anew} with one of them",
    "INVALID_REFERENCE": "write the reference as the error says, and {anew}",
    "CREDENTIALS_IN_URL": "{anew} with a URL that bears no secret, and revoke the one that this bears",
    "INTERNAL": "it is a defect: an administrator finds it in the fetcher's log by the id that the error names, and "
    "reports it",
    "HARD_LIMIT": "an administrator raises PENSTOCK_FETCHER_HARD_LIMIT_MS where the fetcher runs; then {again}",
}
_BY_SOURCE: Final = {
    ("SECURITY", "filesystem"): "an administrator names the folder in PENSTOCK_FETCHER_ROOTS where the fetcher runs; "
    "then {anew}",
    ("SECURITY", "s3"): "an administrator names the bucket in PENSTOCK_FETCHER_S3_BUCKETS where the fetcher runs; "
    "then {anew}",
    ("UNAUTHORIZED", "huggingface"): "an administrator sets PENSTOCK_FETCHER_HF_TOKEN where the fetcher runs, to a "
    "token of somebody who may read it and has accepted its licence; then {again}",
    ("UNAUTHORIZED", "s3"): "an administrator sets PENSTOCK_FETCHER_S3_ACCESS_KEY and PENSTOCK_FETCHER_S3_SECRET_KEY "
    "where the fetcher runs, to a key that may read it; then {again}",
    ("UNAUTHORIZED", "oci"): "an administrator names the registry's user and password in the file of "
    "PENSTOCK_FETCHER_OCI_AUTH_FILE where the fetcher runs; then {again}",
}
"""Where a source has advice of its own."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How a failed fetch is tried again, in words, and how another is started in its place."""

    again: str
    anew: str = "start another"
    option: str = "--"
    """What stands before an option's name."""


def next_step(job: pb.FetchJob) -> str:
    """Say what to do next with a fetch: a sentence with the command, or the setting, that does it."""
    match job.state:
        case pb.FETCH_JOB_STATE_COMPLETED:
            result = job.result
            return f"to predict with it: penstock predict {result.model} --version {result.version}"
        case pb.FETCH_JOB_STATE_FAILED:
            ways = Ways(again=f"`{retry_of(job)}` goes on with what is here")
            return f"what helps: {help_for(job.error.reason, job.source, ways)}"
        case pb.FETCH_JOB_STATE_CANCELLED:
            return f"to go on with it: {retry_of(job)}"
        case pb.FETCH_JOB_STATE_PENDING if job.HasField("error"):
            return f"it is tried again by itself; to see it: penstock fetch watch {job.id}"
    return f"to see it go on: penstock fetch watch {job.id}"


def retry_of(job: pb.FetchJob) -> str:
    """Write the command that tries a fetch again."""
    return f"penstock fetch retry {job.id}"


def command_of(verb: str, source: sources_pb2.SourceReference, *more: str) -> str:
    """Write the command that does something with a reference, as a shell takes it."""
    words = [verb, source.source, source.reference]
    for option in ("revision", "variant", "sha256"):
        if said := getattr(source, option):
            words += [f"--{option}", said]
    return f"penstock fetch {shlex.join([*words, *more])}"


def help_for(reason: str, source: sources_pb2.SourceReference, ways: Ways) -> str:
    """Say what helps against the failure of a fetch; of a reason that is not known, how it is tried again."""
    advice = _BY_SOURCE.get((reason, source.source)) or _BY_REASON.get(reason, "{again}")
    whole = sources_pb2.SourceReference(source=source.source, reference=source.reference, revision=source.revision)
    inspect = f"`{command_of('inspect', whole)}`"
    return advice.format(again=ways.again, anew=ways.anew, option=ways.option, inspect=inspect)
