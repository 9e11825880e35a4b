"""No secret enters the registry inside a URL."""

from __future__ import annotations

import pytest

from services.common.checks import without_credentials
from services.common.errors import InvalidArgument


@pytest.mark.parametrize(
    "value",
    [
        "https://ada:planted@models.example/iris.onnx",
        "https://ghp_planted@git.example/org/repo",
        "http://:planted@h/x",
        "HTTPS://ADA:planted@H/",
        "s3://AKIA:planted@bucket/iris",
        "ssh://ada:planted@host/repo",
        "https://h/iris.onnx?token=planted",
        "https://h/iris.onnx?a=1&access_token=planted",
        "https://h/iris.onnx?X-Amz-Signature=planted&X-Amz-Expires=60",
        "https://h/iris.onnx?X-Amz-Security-Token=planted",
        "https://h/iris.onnx?sv=2024&sig=planted",
        "https://h/iris.onnx?api_key=planted",
        "https://h/iris.onnx?apikey=planted",
        "https://h/#access_token=planted",
        "see https://ada:planted@h/ for more",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        without_credentials("source.reference", value)
    assert refused.value.reason == "CREDENTIALS_IN_URL"
    assert refused.value.violations[0].field == "source.reference"
    assert "planted" not in refused.value.message


@pytest.mark.parametrize(
    "value",
    [
        "",
        "iris",
        "git@git.example:org/repo",
        "ssh://git@git.example/org/repo",
        "https://models.example/iris.onnx?revision=main&download=true",
        "https://models.example/a@b/iris.onnx",
        "hf://org/model@v1.0",
        "s3://bucket/iris.onnx?versionId=3",
        "mailto:ada@example.org",
        "https://h/?monkey=1&design=2",
        "https://h/?token=",
    ],
)
def test_what_bears_none_is_given_back(value: str) -> None:
    assert without_credentials("source.reference", value) == value
