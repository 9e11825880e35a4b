"""Datasets of the trainer, as files of rows for other services: `dataset:NAME` or `dataset:NAME/VERSION`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from penstock import Client
from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.errors import DeadlineExceeded, NotFound, PenstockError
from services.common import errors

SCHEME = "dataset:"
_REFERENCE = re.compile(r"dataset:([A-Za-z0-9][A-Za-z0-9._-]{0,127})(?:/([1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class NamedDataset:
    """A version that somebody named: `uri` says its number, `digest` is that of its rows, which never change."""

    uri: str
    digest: str
    columns: Sequence[pb.Column]


class NamedDatasets:
    """Reads datasets by name. Without a trainer's address every name is refused."""

    def __init__(self, open_client: Callable[[], Client] | None) -> None:
        self._open_client = open_client

    def find(self, field: str, uri: str) -> NamedDataset:
        """Find the version that is meant, the newest that is READY where none is named.

        Raises:
            InvalidArgument: it is no such name (INVALID_NAME).
            NotFound: DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND.
            FailedPrecondition: this service knows no trainer (TRAINER_NOT_CONFIGURED), or the version is not READY
                (DATASET_NOT_READY).
            Unavailable: the trainer gives no answer (TRAINER_UNAVAILABLE).
        """
        match = _REFERENCE.fullmatch(uri)
        if match is None:
            sentence = "write dataset:NAME, or dataset:NAME/VERSION with a version of 1, 2, 3 …"
            raise errors.InvalidArgument.field(field, sentence, reason="INVALID_NAME")
        with self._asking() as client:
            found = client.datasets.get(match[1], int(match[2] or 0))
        if found.state != pb.DATASET_STATE_READY:
            sentence = f"the dataset {found.name}/{found.version} is not READY: {found.message or 'wait for it'}"
            raise errors.FailedPrecondition(sentence, reason="DATASET_NOT_READY")
        return NamedDataset(f"{SCHEME}{found.name}/{found.version}", found.digest, found.columns)

    def chunks(self, found: NamedDataset, columns: Sequence[str] = ()) -> Iterator[bytes]:
        """Give a version, or some of its columns, as the bytes of a Parquet file; raises as `find`."""
        name, _, version = found.uri.removeprefix(SCHEME).partition("/")
        with self._asking() as client:
            yield from client.datasets.download_chunks(name, int(version), columns=columns)

    @contextmanager
    def _asking(self) -> Iterator[Client]:
        if self._open_client is None:
            sentence = "no trainer is configured here, which keeps datasets; set PENSTOCK_TRAINER_ADDRESS"
            raise errors.FailedPrecondition(sentence, reason="TRAINER_NOT_CONFIGURED")
        with self._open_client() as client:
            try:
                yield client
            except NotFound as error:
                raise errors.NotFound(error.message, reason=error.reason) from error
            except PenstockError as error:
                if error.retryable or isinstance(error, DeadlineExceeded):
                    sentence = f"the trainer gives no answer now: {error.message}"
                    raise errors.Unavailable(sentence, reason="TRAINER_UNAVAILABLE") from error
                raise errors.FailedPrecondition(f"the trainer refuses: {error.message}", reason=error.reason) from error


NO_DATASETS = NamedDatasets(None)
"""Where no trainer is configured."""
