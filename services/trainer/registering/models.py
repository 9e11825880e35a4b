"""What is registered, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from services.trainer.task import Outcome, RunFolder


@dataclass(frozen=True, slots=True)
class Registration:
    """A version to be made of what a run left.

    Attributes:
        run_id: the run's; the same run registers the same version, however often it is begun.
        model: whose version it is.
        outcome: what the recipe left.
        folder: where its files are.
        version: what it is called: as asked for, or as kept by an attempt before; '': a name is generated.
        generated: `version` was generated: another takes its place where somebody else was quicker.
        recipe: by which it was made.
        config_version: of the model's training config; 0: it has none.
        dataset: what it learned from, as NAME/VERSION; '': nothing.
        dataset_digest: of the rows.
        created_by: who asked for the run.
        note: why.
    """

    run_id: str
    model: str
    outcome: Outcome
    folder: RunFolder
    version: str = ""
    generated: bool = False
    recipe: str = ""
    config_version: int = 0
    dataset: str = ""
    dataset_digest: str = ""
    created_by: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """A version that is READY. `stage` without its prefix: CANDIDATE."""

    model: str
    version: str
    deployment_number: int
    stage: str
    size_bytes: int
