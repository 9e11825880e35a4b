"""The real MiniLM from a stand-in of the Hub to its embeddings: fetched by the command, READY with what its card and
files say, and embedding as the model's authors published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from pydantic import SecretStr

import penstock
from examples.minilm.__main__ import BUNDLED, write_model
from examples.minilm.sentences import FIRST, PUBLISHED, SECOND, similarities
from examples.minilm.weights import find_folder
from penstock.api.registry.v1.registry_pb2 import VERSION_STATE_READY
from penstock.cli.__main__ import run as command
from services.fetcher.__main__ import build
from services.fetcher.settings import FetcherSettings
from tests import hub
from tests.registry import wait_until
from tests.services import CloneDatabase, Running, running

pytestmark = pytest.mark.slow
NAME = "Xenova/all-MiniLM-L6-v2"
CARD = {"license": "apache-2.0", "language": "en", "base_model": "sentence-transformers/all-MiniLM-L6-v2"}
ALONE = ("modules.json", "1_Pooling/config.json", "special_tokens_map.json")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[hub.Hub]:
    """The repository as such ones are: the graph in onnx/, the tokenizer beside, and what nobody fetches."""
    folder = find_folder()
    write_model(folder, tmp_path / "model.onnx")
    files = {path: (folder / path).read_bytes() for path in (*BUNDLED, *ALONE, "README.md", "vocab.txt")}
    files["onnx/model.onnx"] = (tmp_path / "model.onnx").read_bytes()
    with hub.serving() as served:
        tags = ["transformers.js", "onnx", "license:apache-2.0", "region:us"]
        served.publish(NAME, files, card=CARD, tags=tags, pipeline_tag="feature-extraction")
        yield served


@pytest.fixture
def fetcher(server: hub.Hub, registry: Running, clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Running]:
    settings = FetcherSettings(
        port=0,
        metrics_port=0,
        database_url=SecretStr(clone_database("fetcher")),
        blob_url=f"file://{tmp_path}/downloads",
        registry_address=registry.address,
        fetcher_allowed_hosts="127.0.0.1",
        fetcher_hf_endpoint=server.url,
    )
    with running(build, settings) as service:
        yield service


def test_three_words_bring_a_model_that_embeds(
    server: hub.Hub,
    fetcher: Running,
    client: penstock.Client,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["fetch", "start", "huggingface", NAME, "--name", "minilm", "--watch", "--url", fetcher.address]
    assert command(arguments) == 0, capsys.readouterr()
    version = client.registry.get_version("minilm", "v1")
    assert version.state == VERSION_STATE_READY
    assert {file.path for file in version.files} == {"onnx/model.onnx", *BUNDLED, *ALONE}
    said = MessageToDict(version.metadata)
    assert (said["taskType"], said["outputDimensions"]) == ("feature-extraction", 384)
    kept = ("licence", "pooling", "normalize", "max_tokens", "base_models")
    assert [said["fields"][name] for name in kept] == ["apache-2.0", "mean", True, 256, [CARD["base_model"]]]

    def embedded() -> NDArray[np.float32] | None:
        try:
            return client.inference.embed("minilm", FIRST + SECOND, version="v1").vectors
        except penstock.NotFound:  # inference hears of a new version a moment later
            return None

    found = wait_until(embedded)
    assert found.shape == (6, 384)
    np.testing.assert_allclose(similarities(found[:3], found[3:]), np.array(PUBLISHED), atol=1e-3)
