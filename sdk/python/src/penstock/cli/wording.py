"""RPCs and fields that services and the SDK name, as somebody at the command line knows them: commands and options."""

from __future__ import annotations

import re

COMMANDS = {
    "ListModels": "penstock model list",
    "ListVersions": "penstock model versions",
    "RestoreModel": "penstock model restore",
    "RestoreVersion": "penstock model restore",
    "DeleteVersion": "penstock model delete",
    "RevalidateVersion": "penstock model revalidate",
    "RollbackModel": "penstock model rollback",
    "RecordEvaluation": "penstock model evaluate",
    "UploadPredictionInput": "penstock job create",
    "Predict": "penstock predict",
    "ListSources": "penstock fetch sources",
    "Embed": "penstock embed",
}
"""By the RPC that does the same; those that sentences name. A test holds the table to be complete."""
_OPTIONS = {
    "`force`": "--force",
    "ask with force": "ask with --force",
    "framework='onnx' (--framework onnx)": "--framework onnx",
    "input_format": "--input-format",
    "file_format": "--format",
    "header.column_types": "--type",
    "header.delimiter": "--delimiter",
    "column_types": "--type",
    "row_format": "--format",
    "max_failed_rows": "--max-failed-rows",
    "metadata.task_type": "--task-type",
    "metadata.equivalence_group": "--group",
    "metadata.fields.": "--field ",
    "metadata.fields": "--field",
    "approved_by": "--approver",
    "at_time": "--at",
    "from_time or window": "--from or --window",
    "from_time": "--from",
    "to_time": "--until",
    "as_scheduled": "--scheduled",
    "configuration.": "",
    "window.from_time": "--from",
    "window.to_time": "--until",
    "columns.kinds": "--kind",
    "file.uri": "--uri",
    "file.sha256": "--sha256",
    "header.sha256": "--sha256",
}
OF_THE_CALLERS_DATA = frozenset(
    {
        "ALL_ROWS_FAILED", "BYTES_TRUNCATED", "DATATYPE_MISMATCH", "DIMENSION_MISMATCH", "DUPLICATE_INPUT",
        "INPUT_REFUSED", "INVALID_LABELS", "INVALID_MESSAGES", "INVALID_SHAPE", "INVALID_UTF8", "MALFORMED_TABLE",
        "MISSING_INPUT", "MIXED_CONTENTS", "RAGGED_INPUT", "RANK_MISMATCH", "RAW_ONLY_DATATYPE", "SHAPE_MISMATCH",
        "UNKNOWN_INPUT", "UNKNOWN_OUTPUT", "UNSUPPORTED_DATATYPE", "VALUE_OUT_OF_RANGE",
    }
)  # fmt: skip
"""Reasons of errors about inputs and columns, which may be called like anything; a test holds them to be complete."""
_QUOTED = r"(?<!\w)(?:'[^']*'|\"[^\"]*\")(?!\w)"
_CALLS = rf"\b(?P<verb>call )?(?<![`./])(?P<call>{'|'.join(COMMANDS)})\b(?![`/])"
_FIELDS = "|".join(rf"(?<![\w.]){re.escape(name)}" + r"\b" * name[-1].isalpha() for name in _OPTIONS)
_WORDS = re.compile(rf"{_QUOTED}|{_CALLS}|(?P<field>{_FIELDS})")


def at_the_command_line(sentence: str, reason: str) -> str:
    """Say a sentence with the commands and options that do what it names; what is somebody's own name stays."""
    return sentence if reason in OF_THE_CALLERS_DATA else _WORDS.sub(_said, sentence)


def _said(found: re.Match[str]) -> str:
    if found["call"]:
        return f"{'run ' if found['verb'] else ''}`{COMMANDS[found['call']]}`"
    return _OPTIONS[found["field"]] if found["field"] else found[0]
