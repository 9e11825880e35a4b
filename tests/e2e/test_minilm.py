"""The MiniLM example on real services, with its real weights: what a user of sentence embeddings sees."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import penstock
from examples.minilm.__main__ import BUNDLED, MODEL, VERSION, find_version, run
from examples.minilm.sentences import FIRST, SECOND, similarities
from examples.minilm.weights import BertConfig, find_folder, read_safetensors
from penstock.api.registry.v1.registry_pb2 import STAGE_PRODUCTION
from penstock.cli.__main__ import run as command
from tests.services import Running
from tests.testdata import bert

pytestmark = pytest.mark.slow
LONGEST_TOKENS = 256
"""What sentence-transformers takes of a text for this model (sentence_bert_config.json)."""


def test_sentences_are_as_alike_as_published_and_as_numpy_computes(
    client: penstock.Client, inference: Running, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = find_folder()
    run(client, folder)  # ends with an error where a similarity is not the published one
    shown = capsys.readouterr().out
    assert "equal to the published similarities" in shown

    version = client.registry.get_version(MODEL, VERSION)
    assert version.stage == STAGE_PRODUCTION
    assert version.validation.rows_independent
    assert {file.path for file in version.files} == {"model.onnx", *BUNDLED}

    config, weights = BertConfig.read(folder / "config.json"), read_safetensors(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST_TOKENS)
    long = "water runs down the gated pipe and turns the wheel " * 20_000  # a million characters
    sentences = (*FIRST[:2], SECOND[1], "Übergröße: naïve café, 東京 🙂", "a", long)
    together = client.inference.embed(MODEL, sentences).vectors
    assert together.shape == (6, 384)
    assert together.dtype == np.float32
    for sentence, row in zip(sentences, together, strict=True):
        encoding = tokenizer.encode(sentence)
        expected = bert.embed(config, weights, encoding.ids, encoding.type_ids)
        np.testing.assert_allclose(row, expected, atol=1e-6)
        [alone] = client.inference.embed(MODEL, [sentence]).vectors
        np.testing.assert_allclose(row, alone, atol=1e-6)
    movie, cat, same_movie = together[:3]
    assert similarities(movie, same_movie) > 0.8 > 0.2 > similarities(movie, cat)

    assert command(["embed", MODEL, *FIRST, "--url", inference.address, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(document["embeddings"][:2], together[:2], atol=1e-6)

    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(json.dumps({"id": str(place), "name": name}) for place, name in enumerate(SECOND)))
    arguments = ["--context", f"seen={FIRST[0]}", "--items", str(items), "--url", inference.address, "--json"]
    assert command(["rank", MODEL, *arguments]) == 0
    best = json.loads(capsys.readouterr().out)["items"][0]
    assert (best["id"], round(best["score"], 3)) == ("1", 0.894)

    run(client, folder)  # again: it asks what is there
    assert "bytes, from the weights alone" not in capsys.readouterr().out
    assert find_version(client) == version
