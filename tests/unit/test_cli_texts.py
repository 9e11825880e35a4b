"""`penstock embed` and `penstock rank` against a real server in this process whose answers are scripted."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock
from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.cli.__main__ import run
from penstock.texts import Item
from services.common import errors
from tests.cli_script import Script, answer, script

__all__ = ["answer", "script"]

ID = "01934a1e-7c00-7000-8000-000000000001"


def vectors(request: pb.EmbedRequest) -> pb.EmbedResponse:
    """Answer a vector each, by the text's length."""
    return pb.EmbedResponse(
        inference_id=ID,
        model="minilm",
        version="1.0.0",
        dimensions=5,
        latency_ms=1.5,
        embeddings=[pb.Embedding(values=[len(text), 0.25, 0, 0, -1]) for text in request.texts],
    )


def ranking(*items: pb.RankedItem) -> pb.RankResponse:
    return pb.RankResponse(inference_id=ID, model="minilm", version="1.0.0", latency_ms=2, items=items)


def test_embed_shows_where_each_vector_begins(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers["Embed"] = vectors
    assert run(["embed", "minilm", "the cat", "a dog", "--user", "u", "--session", "s", "--request-id", "r"]) == 0
    header, first, second, answered = capsys.readouterr().out.splitlines()
    assert header.split() == ["ROW", "TEXT", "VECTOR", "OF", "5"]
    assert first == "  0  the cat  [7.0000, 0.2500, 0.0000, 0.0000, …]"
    assert second.split("  ")[-1].startswith("[5.0000")
    assert answered == f"minilm 1.0.0  1.50 ms, inference {ID}"
    (request,) = script.asked
    assert (list(request.texts), request.user_id, request.session_id) == (["the cat", "a dog"], "u", "s")


def test_embed_reads_a_text_a_line_and_gives_whole_vectors(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: Callable[..., Any]
) -> None:
    script.answers["Embed"] = vectors
    (tmp_path / "texts.txt").write_text("one\n\n  two  \n")
    document = answer("embed", "minilm", "zero", "--file", str(tmp_path / "texts.txt"), "--version", "staging")
    assert document == {
        "inference_id": ID,
        "model": "minilm",
        "version": "1.0.0",
        "latency_ms": 1.5,
        "dimensions": 5,
        "embeddings": [[4, 0.25, 0, 0, -1], [3, 0.25, 0, 0, -1], [3, 0.25, 0, 0, -1]],
    }
    assert (list(script.asked[0].texts), script.asked[0].version) == (["zero", "one", "two"], "staging")
    monkeypatch.setattr("sys.stdin", io.StringIO("piped\n"))
    assert len(answer("embed", "minilm", "-f", "-")["embeddings"]) == 1


def test_embed_without_a_text_is_a_usage_error(script: Script, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert run(["embed", "minilm"]) == 2
    assert run(["embed", "minilm", "--file", str(tmp_path / "empty")]) == 2
    assert script.asked == []


def test_a_model_that_does_not_embed_is_one_sentence(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers["Embed"] = errors.FailedPrecondition("iris 1 does not embed", reason="NOT_AN_EMBEDDING_MODEL")
    assert run(["embed", "iris", "a"]) == 1
    assert capsys.readouterr().err == "penstock: iris 1 does not embed [NOT_AN_EMBEDDING_MODEL]\n"


ITEMS = '{"id": "a", "name": "Shoe", "category": "shoes"}\n\n{"id": "b", "description": "dry"}\n'


def test_rank_shows_the_best_first_and_what_failed(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.answers["Rank"] = ranking(pb.RankedItem(id="b", score=0.75), pb.RankedItem(id="a", error="it is broken"))
    (tmp_path / "items.jsonl").write_text(ITEMS)
    arguments = ["--context", "wants=dry feet", "-c", "age=42", "--items", str(tmp_path / "items.jsonl"), "--top", "2"]
    assert run(["rank", "minilm", *arguments]) == 0
    header, first, second, answered = capsys.readouterr().out.splitlines()
    assert header.split() == ["PLACE", "ITEM", "SCORE", "NAME", "ERROR"]
    assert first.split() == ["1", "b", "0.7500"]
    assert second.split() == ["2", "a", "Shoe", "it", "is", "broken"]
    assert answered == f"minilm 1.0.0  2.00 ms, inference {ID}"
    (request,) = script.asked
    assert dict(request.context.items()) == {"wants": "dry feet", "age": "42"}
    assert [(item.id, item.name, item.description, item.category) for item in request.items] == [
        ("a", "Shoe", "", "shoes"),
        ("b", "", "dry", ""),
    ]
    assert request.top_k == 2


def test_rank_answers_a_document(script: Script, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]) -> None:
    script.answers["Rank"] = ranking(pb.RankedItem(id="b", score=0.5))
    monkeypatch.setattr("sys.stdin", io.StringIO(ITEMS))
    document = answer("rank", "minilm", "-c", "q=a", "--items", "-")
    assert document["items"] == [{"id": "b", "score": 0.5, "error": ""}]
    assert document["inference_id"] == ID


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ("", "there are no items in it"),
        ("{", "line 1 is no JSON"),
        ('{"id": "a"}\n[1]', "line 2: an item is an object with id"),
        ('{"name": "a"}', "line 1: an item is an object with id"),
        ('{"id": "a", "price": "1"}', "line 1: an item is an object with id"),
        ('{"id": 1}', "line 1: an item is an object with id"),
    ],
)
def test_items_that_are_none_are_usage_errors(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str], items: str, said: str
) -> None:
    (tmp_path / "items").write_text(items)
    assert run(["rank", "minilm", "-c", "q=a", "--items", str(tmp_path / "items")]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert script.asked == []


@pytest.mark.parametrize("command", ["embed", "rank"])
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"penstock {command} minilm" in capsys.readouterr().out


def test_the_client_gives_arrays_and_takes_items_of_either_kind(script: Script) -> None:
    script.answers |= {"Embed": vectors, "Rank": ranking(pb.RankedItem(id="b", score=0.5))}
    with penstock.Client() as client:
        found = client.inference.embed("minilm", ["one"])
        assert found.vectors.dtype == np.float32
        np.testing.assert_array_equal(found.vectors, [[3, 0.25, 0, 0, -1]])
        ranked = client.inference.rank("minilm", {"age": 42}, [Item("a", "Shoe"), {"id": "b", "category": "x"}])
        assert [(item.id, item.score) for item in ranked.items] == [("b", 0.5)]
        assert [item.id for item in script.asked[-1].items] == ["a", "b"]
        with pytest.raises(penstock.InvalidArgument, match="one string came"):
            client.inference.embed("minilm", "one")
        with pytest.raises(penstock.InvalidArgument, match=r"items\[0\]: an item has id, name"):
            client.inference.rank("minilm", {"q": "a"}, [{"id": "a", "price": "1"}])
