"""RPCs and fields that services and the SDK name, as somebody at the command line knows them: commands and options."""

from __future__ import annotations

import re

COMMANDS = {
    "ListModels": "penstock model list",
    "ListVersions": "penstock model versions",
    "RestoreModel": "penstock model restore",
    "RestoreVersion": "penstock model restore",
    "DeleteVersion": "penstock model delete",
    "RollbackModel": "penstock model rollback",
    "RecordEvaluation": "penstock model evaluate",
    "UploadPredictionInput": "penstock job create",
    "Predict": "penstock predict",
    "Embed": "penstock embed",
}
"""By the RPC that does the same; those that sentences name. A test holds the table to be complete."""
_OPTIONS = {
    "`force`": "--force",
    "input_format": "--input-format",
    "row_format": "--format",
    "max_failed_rows": "--max-failed-rows",
    "metadata.task_type": "--task-type",
    "metadata.equivalence_group": "--group",
    "metadata.fields.": "--field ",
    "metadata.fields": "--field",
    "approved_by": "--approver",
    "from_time": "--from",
    "to_time": "--until",
}
_CALLS = re.compile(rf"\b(call )?(?<![\"'`./])({'|'.join(COMMANDS)})\b(?![\"'`/])")
_FIELDS = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}" + r"\b" * name[-1].isalpha() for name in _OPTIONS))


def at_the_command_line(sentence: str) -> str:
    """Say a sentence with the commands and options that do what it names."""
    said = _CALLS.sub(lambda found: f"{'run ' if found[1] else ''}`{COMMANDS[found[2]]}`", sentence)
    return _FIELDS.sub(lambda found: _OPTIONS[found[0]], said)
