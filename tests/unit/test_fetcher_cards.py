"""What a card and small files say of a model, and what of a stranger's word is believed."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from huggingface_hub.hf_api import ModelInfo

from penstock.api.registry.v1 import registry_pb2 as registry
from services.fetcher.sources.cards import Card, Texts, card_of, document, generates, modules_of

POOLING = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
CONFIG = {"hidden_size": 384, "max_position_embeddings": 512, "architectures": ["BertModel"]}


def card(
    texts: Texts | None = None,
    framework: str = "TRANSFORMERS",
    licence: object = "mit",
    task: object = "feature-extraction",
    **said: Any,
) -> Card:
    about = {"license": licence, "language": "en", **said.pop("card", {})}
    info = ModelInfo(id="org/name", pipeline_tag=task, cardData=about, **said)  # type: ignore[no-untyped-call]  # theirs
    found = card_of(info, texts or Texts(), framework=framework, page="https://hub/org/name")
    ParseDict(found.metadata, registry.Metadata())  # what the registry is told has its form
    return found


def test_a_sentence_encoders_metadata_is_what_serving_needs() -> None:
    texts = Texts(CONFIG, {"model_max_length": 10**30}, {"max_seq_length": 256}, POOLING, ("Transformer", "Pooling"))
    found = card(texts, task="sentence-similarity", tags=["onnx", "license:mit", "region:us", "onnx"])
    assert found.metadata["task_type"] == "feature-extraction"
    assert found.metadata["output_dimensions"] == 384
    assert found.metadata["tags"] == ["license:mit", "onnx"]
    fields = found.metadata["fields"]
    assert (fields["pooling"], fields["normalize"], fields["max_tokens"]) == ("mean", False, 256)
    assert (fields["licence"], fields["pipeline_tag"], fields["languages"]) == ("mit", "sentence-similarity", ["en"])
    assert (found.licence, found.warnings) == ("mit", ())


def test_without_pooling_the_width_is_the_configs() -> None:
    assert card(Texts({"d_model": 512})).metadata["output_dimensions"] == 512
    assert "output_dimensions" not in card(Texts(CONFIG), task="text-classification").metadata


@pytest.mark.parametrize(
    ("task", "kept"),
    [
        ("text-classification", "text-classification"),
        ("token-classification", "token-classification"),
        ("zero-shot-classification", "zero-shot-classification"),
        ("text-ranking", "text-ranking"),
        ("fill-mask", ""),
        (None, ""),
        (["feature-extraction"], ""),
        ("x" * 500, ""),
    ],
)
def test_a_bundles_task_is_one_that_the_registry_takes(task: object, kept: str) -> None:
    found = card(task=task)
    assert found.metadata.get("task_type", "") == kept
    assert any("fill-mask, is none that is served" in each for each in found.warnings) == (task == "fill-mask")


def test_a_graphs_task_is_any() -> None:
    found = card(framework="ONNX", task="image-classification")
    assert (found.metadata["task_type"], found.warnings) == ("image-classification", ())


@pytest.mark.parametrize(
    ("licence", "name", "warning"),
    [
        ("apache-2.0", "apache-2.0", ""),
        (["mit", "apache-2.0"], "mit", ""),
        ("cc-by-nc-4.0", "cc-by-nc-4.0", "no commercial use"),
        ("llama3.2", "llama3.2", "has conditions"),
        ("creativeml-openrail-m", "creativeml-openrail-m", "has conditions"),
        (None, "", "names no licence"),
        ({"a": 1}, "", "names no licence"),
        ("\x1b[2Jmit", "", "names no licence"),
    ],
)
def test_a_licence_and_its_conditions_are_said(licence: object, name: str, warning: str) -> None:
    found = card(licence=licence, task="text-classification")
    assert found.licence == name
    assert [each for each in found.warnings if warning and warning in each] == list(found.warnings)
    assert bool(found.warnings) == bool(warning)


def test_a_licence_of_its_own_goes_by_its_name() -> None:
    found = card(licence="other", card={"license_name": "acme-research"})
    assert found.licence == "acme-research"
    assert "acme-research, has conditions" in found.warnings[0]


def test_that_a_repository_is_gated_is_said() -> None:
    assert "conditions that were accepted" in card(gated="manual").warnings[0]


def test_what_serving_cannot_do_is_said_before() -> None:
    texts = Texts(pooling_config={"pooling_mode_max_tokens": True}, modules=("Transformer", "Pooling", "Dense"))
    found = card(texts)
    assert "pooling" not in found.metadata["fields"]
    assert "pools by pooling_mode_max_tokens" in found.warnings[0]
    assert "modules.json has Dense" in found.warnings[1]


def test_that_nothing_says_how_a_text_is_pooled_is_said() -> None:
    """As of Xenova's BGE: serving takes the mean, the models were trained for the first token."""
    [warning] = card(Texts(CONFIG)).warnings
    assert "serving takes the mean" in warning
    assert "need cls" in warning
    assert card(Texts(CONFIG, pooling_config=POOLING)).warnings == ()
    assert card(Texts(CONFIG), task="text-ranking").warnings == ()
    assert card(Texts(CONFIG), framework="ONNX").warnings == ()


@pytest.mark.parametrize(
    ("task", "architecture", "sentence"),
    [
        ("text-generation", "", "its task is text-generation"),
        ("translation", "", "its task is translation"),
        (None, "Qwen2ForCausalLM", "config.json names Qwen2ForCausalLM"),
        ("fill-mask", "T5ForConditionalGeneration", "config.json names T5ForConditionalGeneration"),
        (None, "GPT2LMHeadModel", "config.json names GPT2LMHeadModel"),
        # As Qwen3-Embedding and Qwen3-Reranker.
        ("feature-extraction", "Qwen3ForCausalLM", ""),
        ("text-ranking", "Qwen3ForCausalLM", ""),
        (None, "BertModel", ""),
        (None, "", ""),
        (["text-generation"], "", ""),
    ],
)
def test_what_makes_texts_is_known_by_its_task_or_its_class(task: object, architecture: str, sentence: str) -> None:
    info = ModelInfo(id="org/name", pipeline_tag=task)  # type: ignore[no-untyped-call]  # theirs
    assert generates(info, {"architectures": [architecture] if architecture else None}) == sentence


def test_a_strangers_word_is_taken_only_where_it_is_short_and_plain() -> None:
    tags: list[Any] = [
        "ok",
        "x" * 65,
        "tab\there",
        "\ud800",
        7,
        None,
        {"a": []},
        *(f"t{number}" for number in range(99)),
    ]
    config = {
        "hidden_size": True, "dim": -3, "d_model": 10**40, "n_embd": "384", "architectures": [{"a": 1}, "Ok"] * 50,
        "id2label": "none", "max_position_embeddings": 1e9,
    }  # fmt: skip
    said = {"language": ["en", False, "\u202e"], "base_model": 7, "datasets": ["d"] * 1_000}
    found = card(Texts(config), tags=tags, library_name=["x"], card=said)
    assert found.metadata["tags"] == ["ok", *(f"t{number}" for number in range(63))]
    assert "output_dimensions" not in found.metadata
    fields = found.metadata["fields"]
    assert (fields["architectures"], fields["languages"], fields["datasets"]) == (["Ok"] * 8, ["en"], ["d"] * 16)
    assert fields.keys() & {"label_count", "max_tokens", "base_models", "library"} == set()


def test_the_most_that_a_card_can_say_fits_into_the_registry() -> None:
    most = ["ä" * 64, "b" * 128, "ä" * 65] * 1_000
    found = card(Texts({"architectures": most}), card={"language": most, "base_model": most, "datasets": most})
    assert set(found.metadata["fields"]["datasets"]) == {"ä" * 64, "b" * 128}, "words are bounded in bytes"
    assert ParseDict(found.metadata, registry.Metadata()).fields.ByteSize() < 16 * 1024


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"7", b'"x"', b"9" * 5_000, b"{"])
def test_what_is_no_document_is_none(content: bytes) -> None:
    assert document(content) is None


def test_modules_go_by_their_class() -> None:
    said = [{"type": "sentence_transformers.models.Normalize"}, {"type": 7}, {}, "x", {"type": "Dense"}]
    assert modules_of(said) == ("Normalize", "", "", "Dense")
