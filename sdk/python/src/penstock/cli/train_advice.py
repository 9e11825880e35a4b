"""What to do next with a run: by how far it has come, and by the reason for which it failed."""

from __future__ import annotations

from typing import Final

from penstock.api.trainer.v1 import training_pb2 as pb

_BY_REASON: Final = {
    "DATASET_NOT_FOUND": "`penstock dataset list` shows which there are: start another with one of them as --data",
    "INVALID_DATA": "mend the rows that the error names{shown_by}, or choose others",
    "INVALID_PARAMETERS": "`penstock train recipes {recipe}` says what the recipe takes: start another",
    "LOSS_NOT_FINITE": "start another with a smaller learning rate; `{logs}` shows where it broke",
    "OUT_OF_MEMORY": "start another with less data or a smaller model, or have an administrator raise "
    "PENSTOCK_TRAINER_MEMORY_LIMIT_BYTES",
    "TIME_LIMIT": "start another with less to do, or have an administrator raise PENSTOCK_TRAINER_TIME_LIMIT_MS",
    "TOO_MUCH_OUTPUT": "see what it wrote (`{logs}`), or have an administrator raise "
    "PENSTOCK_TRAINER_MAX_ARTIFACT_BYTES",
    "RECIPE_NOT_ALLOWED": "`penstock train recipes` says which may be used here, and why others may not",
    "REGISTRATION_FAILED": "mend what the registry names, and start another",
    "REGISTRY_UNAVAILABLE": "see that the registry is well, by `penstock status`; then start another",
    "INFERENCE_UNAVAILABLE": "see that the inference service is well, by `penstock status`; then validate the version: "
    "penstock validate {model} {version}",
    "EXECUTOR_UNAVAILABLE": "see that where it was to run somebody answers; then start another",
    "WORKER_LOST": "its workers died: see the trainer's log; then start another",
}


def next_step(run: pb.TrainingRun) -> str:
    """Say what to do next with a run: a sentence with the command, or the setting, that does it."""
    match run.state:
        case pb.TRAINING_RUN_STATE_COMPLETED if run.validation_passed:
            return f"to roll it out: penstock model promote {run.model} {run.new_version}"
        case pb.TRAINING_RUN_STATE_COMPLETED:
            return f"to try it anyway: penstock predict {run.model} --version {run.new_version}"
        case pb.TRAINING_RUN_STATE_FAILED:
            otherwise = "start another: the same again may help" if run.retryable else "`{logs}` shows what it printed"
            advice = _BY_REASON.get(run.reason, otherwise)
            said = {
                "shown_by": f" (penstock dataset show {run.dataset})" if run.dataset else "", "recipe": run.recipe,
                "model": run.model, "version": run.new_version, "logs": f"penstock train logs {run.id}",
            }  # fmt: skip
            return f"what helps: {advice.format(**said)}"
        case pb.TRAINING_RUN_STATE_CANCELLED:
            return f"to train again: penstock train start {run.model}"
    return f"to see it go on: penstock train watch {run.id}"
