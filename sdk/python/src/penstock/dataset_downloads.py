"""Downloads of datasets, as `penstock.downloads` resumes and verifies them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from penstock.api.registry.v1 import registry_pb2
from penstock.api.trainer.v1 import datasets_pb2 as pb
from penstock.channels import Connection
from penstock.stubs import TrainerStub
from penstock.values import enum_number

WORK_TIMEOUT_S = 600.0
"""For what the service reads a whole version for."""


class DatasetFetch:
    """Begins a download at a byte; broken off, it goes on with the same version."""

    def __init__(
        self,
        connection: Connection[TrainerStub],
        name: str,
        version: int,
        split_id: str,
        part: pb.DatasetPart.ValueType | str | None,
        columns: Sequence[str],
    ) -> None:
        self._connection = connection
        self._request = pb.DownloadDatasetRequest(
            name=name,
            version=version,
            split_id=split_id,
            part=enum_number("part", pb.DatasetPart, part),
            columns=columns,
        )

    def __call__(self, offset: int) -> Generator[registry_pb2.DownloadFileResponse, None, None]:
        """Give what comes from a byte on."""
        self._request.offset = offset
        stub = self._connection.stub.DownloadDataset
        answers = self._connection.stream(stub, self._request, idle_timeout_s=WORK_TIMEOUT_S)
        with closing(answers):
            for answer in answers:
                sent = registry_pb2.DownloadFileResponse(chunk=answer.chunk)
                if answer.HasField("dataset"):
                    self._request.version = answer.dataset.version
                    path = f"{answer.dataset.name}-{answer.dataset.version}.parquet"
                    sent.file.path, sent.file.sha256 = path, answer.sha256
                    sent.file.size_bytes = answer.size_bytes
                yield sent
