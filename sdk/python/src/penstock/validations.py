"""The client of validations: versions tried as they are served, on rows that they have not seen."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from penstock.api.trainer.v1 import validations_pb2 as pb
from penstock.channels import Connection
from penstock.errors import PenstockError
from penstock.ids import uuid7
from penstock.paging import pages
from penstock.retries import WATCH_PATIENCE_S, Broken, Tries
from penstock.stubs import TrainerStub
from penstock.values import enum_number

TERMINAL = (pb.VALIDATION_STATE_COMPLETED, pb.VALIDATION_STATE_FAILED, pb.VALIDATION_STATE_CANCELLED)


class ValidationsClient:
    """Asks the trainer to try versions."""

    def __init__(self, connection: Connection[TrainerStub]) -> None:
        self._connection = connection

    def create(
        self,
        model: str,
        version: str,
        data_source: str = "",
        *,
        rows: pb.ValidationRows.ValueType | str | None = None,
        against: str = "",
        alone: bool = False,
        label_column: str = "",
        slices: Iterable[str] = (),
        note: str = "",
        request_id: str = "",
    ) -> pb.Validation:
        """Queue a validation. What it measures is recorded as an evaluation, by which the registry opens STAGING.

        Args:
            model: the model.
            version: an exact version, a stage, an alias or `latest`.
            data_source: a dataset as NAME or NAME/VERSION, `traffic` or `traffic:7d`, or several with `+` between them;
                empty: as the model's training config says.
            rows: TEST, those that the training config holds out; or ALL, for rows that no run has seen.
            against: what it is compared with; empty: what is in production.
            alone: compare it with nothing.
            label_column: empty: as the version's metadata say, else `label`.
            slices: columns whose values are judged one by one, at most 5; none: as the training config says.
            note: why, in at most 1,000 characters.
            request_id: the same again returns the first result; empty: one is made.

        Raises:
            NotFound: the model (MODEL_NOT_FOUND), or a version (VERSION_NOT_FOUND).
            FailedPrecondition: the version is not READY (VERSION_NOT_READY).
            InvalidArgument: nobody says where the rows come from (INVALID_DATA_SOURCE), or something is malformed.
            ResourceExhausted: too many validations of this key have not ended (TOO_MANY_JOBS).
        """
        request = pb.ValidateVersionRequest(
            model=model,
            version=version,
            data_source=data_source,
            rows=enum_number("rows", pb.ValidationRows, rows),
            against=against,
            alone=alone,
            label_column=label_column,
            slices=slices,
            note=note,
            request_id=request_id or uuid7(),
        )
        return self._connection.unary(self._connection.stub.ValidateVersion, request).validation

    def get(self, validation_id: str) -> pb.Validation:
        """Give a validation as it stands; raises NotFound (VALIDATION_NOT_FOUND)."""
        request = pb.GetValidationRequest(id=validation_id)
        return self._connection.unary(self._connection.stub.GetValidation, request).validation

    def list(self, *, model: str = "", version: str = "", page_size: int = 0) -> Iterator[pb.Validation]:
        """List validations, the newest first, those of training runs among them: of all models, or of one."""

        def fetch(token: str) -> pb.ListValidationsResponse:
            request = pb.ListValidationsRequest(model=model, version=version, page_size=page_size, page_token=token)
            return self._connection.unary(self._connection.stub.ListValidations, request)

        for page in pages(fetch):
            yield from page.validations

    def watch(self, validation_id: str, *, broken: Broken | None = None) -> Generator[pb.Validation, None, None]:
        """Give a validation at once, and again whenever it changes, until it has ended.

        A stream that breaks is taken up again for a minute at the least; `broken` is called once for each break that
        is about to be mended.

        Raises:
            NotFound: there is none such (VALIDATION_NOT_FOUND).
            PenstockError: the service stayed away. The validation goes on without; watch it again.
        """
        tries = Tries(self._connection.retry, patience_s=WATCH_PATIENCE_S, broken=broken)
        while True:
            request = pb.WatchValidationRequest(id=validation_id)
            try:
                with closing(self._connection.stream(self._connection.stub.WatchValidation, request)) as answers:
                    for answer in answers:
                        tries.progressed()
                        yield answer.validation
                        if answer.validation.state in TERMINAL:
                            return
            except PenstockError as error:
                tries.again(error)

    def wait(self, validation_id: str) -> pb.Validation:
        """Wait until a validation has ended, however, and give it; raises as `watch`."""
        for validation in self.watch(validation_id):
            last = validation
        return last

    def cancel(self, validation_id: str) -> pb.Validation:
        """Ask for a validation's end. Raises FailedPrecondition (JOB_ENDED)."""
        request = pb.CancelValidationRequest(id=validation_id)
        return self._connection.unary(self._connection.stub.CancelValidation, request).validation
