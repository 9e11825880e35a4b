"""The MiniLM example on real services, with its real weights: what a user of sentence embeddings sees."""

from __future__ import annotations

import numpy as np
import pytest

import penstock
from examples.minilm.__main__ import BUNDLE, BUNDLED, MODEL, VERSION, find_version, run
from examples.minilm.graph import OUTPUT
from examples.minilm.sentences import FIRST, SECOND, SentenceTokenizer, similarities
from examples.minilm.weights import BertConfig, find_folder, read_safetensors
from penstock.api.registry.v1.registry_pb2 import STAGE_PRODUCTION, VERSION_STATE_READY
from tests.testdata import bert

pytestmark = pytest.mark.slow


def test_sentences_are_as_alike_as_published_and_as_numpy_computes(
    client: penstock.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = find_folder()
    run(client, folder)  # ends with an error where a similarity is not the published one
    shown = capsys.readouterr().out
    assert "equal to the published similarities" in shown

    version = client.registry.get_version(MODEL, VERSION)
    assert version.stage == STAGE_PRODUCTION
    assert version.validation.rows_independent
    assert version.files[0].size_bytes > 86 * 1024 * 1024

    bundle = client.registry.get_version(BUNDLE, VERSION)
    assert bundle.state == VERSION_STATE_READY
    assert {file.path for file in bundle.files} == {"model.onnx", *BUNDLED}

    tokenizer = SentenceTokenizer(folder)
    config, weights = BertConfig.read(folder / "config.json"), read_safetensors(folder / "model.safetensors")
    sentences = (*FIRST[:2], SECOND[1])
    together = client.inference.predict(MODEL, tensors=tokenizer.tensors(sentences)).outputs[OUTPUT]
    assert together.shape == (3, 384)
    assert together.dtype == np.float32
    for sentence, row in zip(sentences, together, strict=True):
        tensors = tokenizer.tensors([sentence])
        ids, kinds = tensors["input_ids"][0].tolist(), tensors["token_type_ids"][0].tolist()
        np.testing.assert_allclose(row, bert.embed(config, weights, ids, kinds), atol=1e-4)
        [alone] = client.inference.predict(MODEL, tensors=tensors).outputs[OUTPUT]
        np.testing.assert_allclose(row, alone, atol=1e-5)
    movie, cat, same_movie = together
    assert similarities(movie, same_movie) > 0.8 > 0.2 > similarities(movie, cat)

    run(client, folder)  # again: it asks what is there
    assert "bytes, from the weights alone" not in capsys.readouterr().out
    assert find_version(client) == version
