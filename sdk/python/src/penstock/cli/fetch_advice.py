"""What to do next with a fetch: by how far it has come, and by the reason for which it failed."""

from __future__ import annotations

import shlex

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import sources_pb2

_WHERE = "where the fetcher runs"
_ROOTS = f"an administrator names the folder in PENSTOCK_FETCHER_ROOTS {_WHERE}"
_HOSTS = f"an administrator names the host in PENSTOCK_FETCHER_ALLOWED_HOSTS {_WHERE}, if it is to be trusted"
_AGAIN = "{retry} goes on with what is here"
_BY_REASON = {
    "NETWORK_ERROR": f"see that the source can be reached from {_WHERE}; then {_AGAIN}",
    "RATE_LIMITED": f"wait until the source has had its rest; then {_AGAIN}",
    "STORAGE_ERROR": f"see to the fetcher's blob store (PENSTOCK_BLOB_URL) and to its disk; then {_AGAIN}",
    "SOURCE_CHANGED": "it changed while it was read: once it stays as it is, {retry}, or name a --revision or --sha256",
    "REGISTRY_UNAVAILABLE": f"see that the registry is well, by `penstock status`; then {_AGAIN}",
    "WORKER_LOST": f"its workers died: see their logs; then {_AGAIN}",
    "MODEL_NOT_FOUND": "see what is there by {inspect}; then start another with what it is called",
    "UNSUPPORTED_FRAMEWORK": "see what is there by {inspect}; then start another with --framework, or a --variant in "
    "ONNX; what is neither must be exported to ONNX first",
    "FILE_TOO_LARGE": "a smaller --variant may do ({inspect} lists them); else an administrator raises "
    f"PENSTOCK_FETCHER_MAX_FILE_BYTES or PENSTOCK_FETCHER_MAX_BYTES {_WHERE}; then {_AGAIN}",
    "DIGEST_MISMATCH": "the bytes are not those that were announced: ask whoever publishes them, and start another "
    "with the --sha256 that they name",
    "REGISTRATION_REFUSED": "mend what the registry names, and start another; --name, --version and --framework say "
    "what is made of it",
    "HARD_LIMIT": f"an administrator raises PENSTOCK_FETCHER_HARD_LIMIT_MS {_WHERE}; then {_AGAIN}",
}
_CREDENTIALS: dict[str, str] = {}
"""Which settings hold what a source asks for, by its name."""
_ELSE = f"{_AGAIN}"


def next_step(job: pb.FetchJob) -> str:
    """Say what to do next with a fetch: a sentence with the command, or the setting, that does it."""
    match job.state:
        case pb.FETCH_JOB_STATE_COMPLETED:
            result = job.result
            return f"to predict with it: penstock predict {result.model} --version {result.version}"
        case pb.FETCH_JOB_STATE_FAILED:
            return f"what helps: {_help_for(job)}"
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


def _help_for(job: pb.FetchJob) -> str:
    reason, source = job.error.reason, job.source.source
    if reason == "SECURITY":
        advice = _ROOTS if source == "filesystem" else _HOSTS
    elif reason == "UNAUTHORIZED":
        settings = _CREDENTIALS.get(source)
        advice = (
            f"an administrator sets {settings} {_WHERE}; then {_AGAIN}"
            if settings
            else f"the source takes no credentials of this service: see that it may be read by everyone; then {_AGAIN}"
        )
    else:
        advice = _BY_REASON.get(reason, _ELSE)
    whole = sources_pb2.SourceReference(source=source, reference=job.source.reference, revision=job.source.revision)
    return advice.format(retry=f"`{retry_of(job)}`", inspect=f"`{command_of('inspect', whole)}`")
