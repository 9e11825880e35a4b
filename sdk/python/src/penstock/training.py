"""The client of the trainer: runs that make a version of a model."""

from __future__ import annotations

from typing import TypeAlias

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.channels import Connection
from penstock.ids import uuid7
from penstock.stubs import TrainerStub
from penstock.values import enum_number

Type: TypeAlias = "pb.TrainingType.ValueType | str | None"
"""INITIAL, RETRAIN or FINETUNE, by number or by name in any case; None: the trainer chooses."""


class TrainingClient:
    """Calls the trainer."""

    def __init__(self, connection: Connection[TrainerStub]) -> None:
        self._connection = connection

    def create_run(
        self,
        model: str,
        *,
        type: Type = None,  # noqa: A002 - the contract's name
        parent_version: str = "",
        config_version: int = 0,
        requested_by: str = "",
        retraining_request_id: str = "",
        note: str = "",
        request_id: str = "",
    ) -> pb.TrainingRun:
        """Queue a run with the model's training config.

        Args:
            model: the model.
            type: what the run begins with; None: RETRAIN where the model has a version, else INITIAL.
            parent_version: what the new version is to be better than; empty: the one in production.
            config_version: of the training config; 0: the latest.
            requested_by: who wanted it; heeded where the caller is a service.
            retraining_request_id: the retraining request that it answers.
            note: why, in at most 1,000 characters.
            request_id: the same again returns the first result; empty: one is made, so that a retry makes no second
                run.

        Raises:
            NotFound: the model (MODEL_NOT_FOUND) or the parent (VERSION_NOT_FOUND).
            FailedPrecondition: the model has no training config (NO_TRAINING_CONFIG).
        """
        request = pb.CreateTrainingRunRequest(
            model=model,
            type=enum_number("type", pb.TrainingType, type),
            parent_version=parent_version,
            config_version=config_version,
            trigger=pb.TrainingTrigger(
                requested_by=requested_by, retraining_request_id=retraining_request_id, note=note
            ),
            request_id=request_id or uuid7(),
        )
        return self._connection.unary(self._connection.stub.CreateTrainingRun, request).run

    def get_run(self, run_id: str) -> pb.TrainingRun:
        """Give a run as it stands; raises NotFound (RUN_NOT_FOUND)."""
        request = pb.GetTrainingRunRequest(id=run_id)
        return self._connection.unary(self._connection.stub.GetTrainingRun, request).run
