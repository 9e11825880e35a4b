"""What a fetch is asked to make: whatever the registry would refuse is refused before anything is brought."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from services.common.errors import InvalidArgument
from services.fetcher import convert

SOURCE = {"source": "url", "reference": "https://example.org/m.onnx"}


def asked_for(**target: Any) -> None:
    convert.new_fetch(ParseDict({"source": SOURCE, "target": target}, pb.CreateFetchJobRequest()))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"version": "latest"}, "INVALID_NAME"),
        ({"version": "Latest"}, "INVALID_NAME"),
        ({"version": "production"}, "INVALID_NAME"),
        ({"model": "-m"}, "INVALID_NAME"),
        ({"description": "d" * 4_097}, "INVALID_TEXT"),
        ({"note": "n" * 4_097}, "INVALID_TEXT"),
        ({"approvedBy": "two\nlines"}, "INVALID_TEXT"),
        ({"labels": {"Bad Key!": "x"}}, "INVALID_NAME"),
        ({"labels": {"key": "v" * 256}}, "INVALID_TEXT"),
        ({"labels": {f"key{n}": "" for n in range(65)}}, "TOO_MANY"),
        ({"metadata": {"tags": ["t" * 65]}}, "INVALID_TEXT"),
        ({"metadata": {"tags": ["t"] * 65}}, "TOO_MANY"),
        ({"metadata": {"fields": {"text": "x" * 16_384}}}, "OUT_OF_BOUNDS"),
        ({"metadata": {"taskType": "t" * 257}}, "INVALID_TEXT"),
        ({"metadata": {"equivalenceGroup": "g" * 257}}, "INVALID_TEXT"),
        ({"metadata": {"outputDimensions": -1}}, "OUT_OF_BOUNDS"),
        ({"metadata": {"taskType": "of-no-kind"}, "framework": "FRAMEWORK_TRANSFORMERS"}, "UNKNOWN_TASK_TYPE"),
        ({"stage": 77}, "INVALID_ENUM"),
        ({"framework": 77}, "INVALID_ENUM"),
        ({"stage": "STAGE_ARCHIVED"}, "INVALID_STAGE"),
        ({"stage": "STAGE_PRODUCTION"}, "INVALID_STAGE"),
    ],
)
def test_what_the_registry_would_refuse_is_refused_at_once(target: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        asked_for(**target)
    assert refused.value.reason == reason
    assert refused.value.violations[0].field.removeprefix("target.").split(".")[0].split("[")[0] in {
        *target,
        "approved_by",
    }


def test_what_the_registry_takes_is_taken() -> None:
    asked_for(
        model="m",
        version="2024-11+rc.1",
        stage="STAGE_STAGING",
        framework="FRAMEWORK_TRANSFORMERS",
        description="of roses\n" * 100,
        labels={"team/name": "roses and others"},
        metadata={"taskType": "feature-extraction", "tags": ["a"], "fields": {"pooling": "mean", "own": [1, None]}},
    )
    asked_for()
