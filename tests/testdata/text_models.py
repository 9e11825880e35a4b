"""Tiny Transformers bundles for each task: a BERT of random weights, a head on top, and a WordPiece tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from examples.minilm.graph import build
from services.inference.models import ArtifactFile, Metadata, ResolvedVersion, Signature
from services.inference.runtimes.runtime import Artifact
from tests.testdata import bert

CONFIG = bert.tiny_config()
# Weak layers around ones that pass on what came, or all tokens of a text would come out alike.
WEIGHTS = {
    name: np.float32(name.endswith("LayerNorm.weight")) + weight * np.float32(0.2 if weight.shape[0] < 31 else 1)
    for name, weight in bert.random_weights(CONFIG).items()
}
WORDS = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "pipe", "feeds", "the", "turbine", "water", "is", "cold", "ada", "lives",
    "in", "london", "##s", "##ed", ".", ",", "sport", "politics", "this", "about", "who", "?", "new", "york", "and",
    "love", "##lace",
)  # fmt: skip
TEXTS = ("the pipe feeds a turbine", "water is cold.", "Ada Lovelace lives in London", "a", "")
HEAD = np.random.default_rng(3)
HEADS: Mapping[int, NDArray[np.float32]] = {
    width: HEAD.standard_normal((CONFIG.hidden_size, width)).astype(np.float32) for width in (1, 2, 3, 5)
}


def tokenizer() -> Tokenizer:
    """BERT's own way, with `[CLS] a [SEP] b [SEP]` around a pair."""
    made = Tokenizer(WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(list(WORDS[:4]))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # What others saved must not matter.
    made.enable_padding(length=9)
    made.enable_truncation(5)
    return made


def bundle(graph: bytes | None = None, *, path: str = "model.onnx", **config: Any) -> dict[str, bytes]:
    """Give a bundle's files: by default the one that gives the tokens' vectors."""
    document = {
        "model_type": "bert",
        "vocab_size": CONFIG.vocab_size,
        "max_position_embeddings": CONFIG.max_position_embeddings,
        "pad_token_id": 0,
    }
    return {
        "tokenizer.json": tokenizer().to_str().encode(),
        "tokenizer_config.json": json.dumps({"pad_token": "[PAD]", "model_max_length": int(1e30)}).encode(),
        "config.json": json.dumps(document | config).encode(),
        path: encoder() if graph is None else graph,
    }


def labelled(*labels: str) -> dict[str, Any]:
    """Name the classes, as config.json does."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


def encoder(*, texts: int | str = "batch", tokens: int | str = "sequence") -> bytes:
    """Give the tokens' vectors: `last_hidden_state` FP32 [texts, tokens, 12]."""
    return _cut("last_hidden_state", ["batch", "sequence", CONFIG.hidden_size], [], texts, tokens)


def sentence_encoder() -> bytes:
    """Give the text's embedding, pooled and normalised in the graph: `sentence_embedding` FP32 [texts, 12]."""
    return build(CONFIG, WEIGHTS)


def classifier(width: int) -> bytes:
    """Score each text by its first token: `logits` FP32 [texts, width]."""
    first = [
        helper.make_node("Gather", ["hidden", "zero"], ["first"], axis=1),
        helper.make_node("MatMul", ["first", "head"], ["logits"]),
    ]
    return _cut("logits", ["batch", width], first)


def tagger(width: int) -> bytes:
    """Score each token: `logits` FP32 [texts, tokens, width]."""
    return _cut("logits", ["batch", "sequence", width], [helper.make_node("MatMul", ["hidden", "head"], ["logits"])])


def _cut(
    output: str,
    shape: list[int | str],
    nodes: list[onnx.NodeProto],
    texts: int | str = "batch",
    tokens: int | str = "sequence",
) -> bytes:
    """Take the encoder of the MiniLM example without its pooling, and put other nodes on top."""
    model = onnx.load_from_string(build(CONFIG, WEIGHTS))
    last = max(place for place, node in enumerate(model.graph.node) if node.op_type == "LayerNormalization")
    # The pooling's nodes come last; the mask's, which it shares, come first.
    kept = list(model.graph.node)[: last + 1]
    kept[-1].output[0] = "hidden" if nodes else output
    constants = list(model.graph.initializer)
    if nodes:
        constants.append(numpy_helper.from_array(np.array(0), "zero"))
        constants.append(numpy_helper.from_array(HEADS[int(shape[-1])], "head"))
    inputs = [
        helper.make_tensor_value_info(each.name, TensorProto.INT64, [texts, tokens]) for each in model.graph.input
    ]
    made = helper.make_graph(
        [*kept, *nodes], "graph", inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)], constants
    )
    whole = helper.make_model(made, opset_imports=model.opset_import, ir_version=8)
    content: bytes = whole.SerializeToString()
    return content


def artifact(
    folder: Path, files: Mapping[str, bytes], task_type: str = "", *, independent: bool = True, **fields: Any
) -> Artifact:
    """Write the files, and describe the version that they are."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    kept = tuple(ArtifactFile(path, "0" * 64, len(content)) for path, content in files.items())
    version = ResolvedVersion(
        "texts",
        "1",
        1,
        "transformers",
        "PRODUCTION",
        Signature((), ()),
        kept,
        rows_independent=independent,
        metadata=Metadata(task_type, fields),
    )
    return Artifact(version, folder)


def ids_of(text: str, other: str | None = None) -> tuple[list[int], list[int]]:
    """Give ids and kinds, found without the code under test."""
    plain = tokenizer()
    plain.no_padding()
    plain.no_truncation()
    encoding = plain.encode(text, other)
    return encoding.ids, encoding.type_ids


def hidden(text: str, other: str | None = None) -> NDArray[np.float64]:
    """The tokens' vectors, by NumPy alone."""
    return bert.hidden(CONFIG, WEIGHTS, *ids_of(text, other))


def logits(width: int, text: str, other: str | None = None) -> NDArray[np.float64]:
    """The classifier's logits, by NumPy alone."""
    return np.asarray(hidden(text, other)[0] @ HEADS[width])


def as_bytes(texts: Sequence[str | bytes]) -> NDArray[np.object_]:
    """Make a BYTES tensor."""
    array = np.empty(len(texts), dtype=object)
    array[:] = [text if isinstance(text, bytes) else text.encode() for text in texts]
    return array
