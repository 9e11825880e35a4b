"""What a repository's files are, by their names: frameworks, variants, and what belongs to each."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from services.common.errors import DomainError, InvalidArgument
from services.fetcher.faults import FileTooLarge, ModelNotFound, UnsupportedFramework
from services.fetcher.sources.bundles import Layout, laid_out, within

BUNDLE = ("README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "pytorch_model.bin")
# As github.com/huggingface/transformers.js names what its script quantizes.
DTYPES = ("", "_fp16", "_int8", "_uint8", "_quantized", "_q4", "_q4f16", "_bnb4")
EXPORTED = (*BUNDLE, "special_tokens_map.json", *(f"onnx/model{dtype}.onnx" for dtype in DTYPES))
SEVERAL = ("onnx/encoder_model.onnx", "onnx/decoder_model.onnx", "onnx/decoder_model_merged.onnx")


def layout(paths: Iterable[str], folder: str = "") -> Layout:
    return laid_out(list(paths), folder, "org/name")


def test_the_variants_of_an_export_are_found_with_their_precisions() -> None:
    found = layout(EXPORTED)
    assert (found.framework, found.root, found.forms[0].name) == ("TRANSFORMERS", "", "default")
    assert {form.name: form.precision for form in found.forms} == {
        "default": "fp32", "fp16": "fp16", "int8": "int8", "uint8": "int8", "quantized": "int8", "q4": "int4",
        "q4f16": "int4", "bnb4": "bnb4",
    }  # fmt: skip


def test_of_a_variant_the_graph_and_what_all_share_is_fetched_and_nothing_else() -> None:
    shared = {"tokenizer.json", "config.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert set(layout(EXPORTED).form("q4").paths) == {"onnx/model_q4.onnx", *shared}
    assert set(layout(EXPORTED).form("").paths) == {"onnx/model.onnx", *shared}


def test_a_sentence_encoder_keeps_how_it_pools() -> None:
    pooling = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "2_Normalize/README.md")
    [form] = layout(("tokenizer.json", "config.json", "onnx/model.onnx", *pooling)).forms
    assert set(form.paths) == {"tokenizer.json", "config.json", "onnx/model.onnx", *pooling[:3]}


@pytest.mark.parametrize(("asked", "named"), [("q8", "quantized"), ("fp32", "default")])
def test_dtypes_of_transformers_js_name_variants_too(asked: str, named: str) -> None:
    assert layout(EXPORTED).form(asked).name == named


def test_an_unknown_variant_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"no 'q3'.*default.*bnb4") as refused:
        layout(EXPORTED).form("q3")
    assert refused.value.reason == "UNKNOWN_VARIANT"


def test_external_data_goes_with_its_graph() -> None:
    data = ("onnx/model.onnx_data", "onnx/model_fp16.onnx_data", "onnx/model_fp16.onnx_data_1", "onnx/model_q4.data")
    found = layout((*EXPORTED, *data))
    kept = {name: {path for path in found.form(name).paths if "data" in path} for name in ("", "fp16", "q4", "int8")}
    assert kept == {"": {data[0]}, "fp16": {data[1], data[2]}, "q4": {data[3]}, "int8": set()}


def test_tensors_that_are_no_graphs_own_go_with_all() -> None:
    data = ("onnx__MatMul_17", "encoder.layer.0.weight", "weights.data")
    found = layout(("model.onnx", "model_fp16.onnx", "notes.txt", *data))
    assert found.framework == "ONNX"
    assert [set(form.paths) for form in found.forms] == [{"model.onnx", *data}, {"model_fp16.onnx", *data}]


@pytest.mark.parametrize(
    "name",
    ["onnx/Constant_7_attr__value", "onnx/embeddings.position_ids", "onnx/lin_a", "onnx/weights.pb", "onnx/model.bin"],
)
def test_tensors_may_be_called_anything(name: str) -> None:
    """As in BAAI/bge-m3: without one of them the graph cannot be opened."""
    assert name in layout((*BUNDLE, "onnx/model.onnx", name)).forms[0].paths


def test_what_is_known_to_be_something_else_is_no_tensor() -> None:
    others = (
        "pytorch_model.bin", "openvino.bin", "openvino.xml", "ir.bin", "ir.xml", "LICENSE", "README", ".gitattributes",
        "spm.model", "training_args.bin", "model.safetensors", "tf_model.h5", "vocab.txt", "LICENSE-MODEL",
    )  # fmt: skip
    found = layout(("model.onnx", *others))
    assert (found.forms[0].paths, found.warnings) == (("model.onnx",), ())


def test_of_what_may_be_a_tensor_and_is_not_fetched_a_warning_tells() -> None:
    found = layout(("text.onnx", "vision.onnx", "Constant_7", "ct2.bin", "notes.md"))
    assert all("Constant_7" not in form.paths for form in found.forms)
    assert "Constant_7, ct2.bin beside the graphs cannot be told from external data" in found.warnings[0]


def test_two_variants_are_never_called_the_same() -> None:
    found = layout(("model.onnx", "model_default.onnx", "model_fp16.onnx", "model-fp16.onnx"))
    assert {form.name: form.main for form in found.forms} == {
        "default": "model.onnx", "model_default": "model_default.onnx", "fp16": "model-fp16.onnx",
        "model_fp16": "model_fp16.onnx",
    }  # fmt: skip
    assert found.form("").main == "model.onnx"


def test_what_sentence_transformers_saved_above_the_tokenizer_comes_along() -> None:
    graph = ("a/onnx/model.onnx", "a/onnx/tokenizer.json", "a/onnx/config.json")
    saved = ("a/modules.json", "a/1_Pooling/config.json", "a/sentence_bert_config.json")
    found = layout((*graph, *saved, "1_Pooling/config.json", "modules.json"))
    assert (found.root, set(found.forms[0].paths)) == ("a/onnx", {*graph, *saved})
    assert {within(path, found.root) for path in found.forms[0].paths} == {
        "model.onnx", "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json",
        "sentence_bert_config.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("yolo.onnx",), ["default"]),
        (("yolo.onnx", "yolo_fp16.onnx"), ["default", "fp16"]),
        (("onnx/model_quantized.onnx",), ["quantized"]),
        (("model.onnx", "text_model.onnx", "text_model_fp16.onnx"), ["default", "text_model", "text_model_fp16"]),
        # As sentence-transformers exports them.
        (("onnx/model.onnx", "onnx/model_O2.onnx", "onnx/model_qint8_avx2.onnx"), ["default", "O2", "qint8_avx2"]),
        (("a.onnx", "b.onnx"), ["a", "b"]),
        (("net.onnx", "network.onnx"), ["net", "network"]),
    ],
)
def test_variants_are_named_by_what_they_add(paths: tuple[str, ...], names: list[str]) -> None:
    assert [form.name for form in layout(paths).forms] == names


def test_of_several_graphs_without_a_default_one_has_to_be_named() -> None:
    found = layout(("model_fp16.onnx", "model_q4.onnx"))
    with pytest.raises(InvalidArgument, match=r"none of them is the model's own; name one of: fp16, q4"):
        found.form("")
    assert found.form("q4").main == "model_q4.onnx"


def test_an_encoder_and_a_decoder_are_not_one_model() -> None:
    found = layout((*BUNDLE, *SEVERAL))
    with pytest.raises(UnsupportedFramework, match=r"make a text in turns.*Ollama.*--variant"):
        found.form("")
    assert found.form("encoder_model").main == "onnx/encoder_model.onnx"


def test_graphs_of_several_folders_are_named_by_theirs() -> None:
    paths = (*BUNDLE, "cpu/int4/model.onnx", "cuda/fp16/model.onnx", "cuda/fp16/model.onnx.data")
    with pytest.raises(UnsupportedFramework, match=r"name one, as org/name/cpu/int4"):
        layout(paths)
    found = layout(paths, "cuda/fp16")
    # The tokenizer lies above, and the bundle is rooted there.
    assert (found.framework, found.root) == ("TRANSFORMERS", "")
    assert {"cuda/fp16/model.onnx", "cuda/fp16/model.onnx.data", "tokenizer.json"} <= set(found.forms[0].paths)


def test_a_bundle_may_lie_in_a_folder_of_its_own() -> None:
    found = layout(("README.md", "onnx/model.onnx", "onnx/tokenizer.json", "onnx/config.json"))
    assert (found.framework, found.root) == ("TRANSFORMERS", "onnx")


def test_a_graph_without_a_fast_tokenizer_is_a_plain_one() -> None:
    found = layout(("config.json", "tokenizer_config.json", "vocab.txt", "onnx/model.onnx"))
    assert (found.framework, found.root) == ("ONNX", "onnx")
    assert "takes numbers, and no text" in found.warnings[0]


def test_a_saved_model_is_all_that_belongs_to_it() -> None:
    inside = ("saved_model.pb", "fingerprint.pb", "variables/variables.index", "assets/vocab.txt")
    found = layout((*(f"export/{path}" for path in inside), "export/notes.md", "README.md"))
    assert (found.framework, found.root) == ("TENSORFLOW", "export")
    assert set(found.forms[0].paths) == {f"export/{path}" for path in inside}
    with pytest.raises(UnsupportedFramework, match="several SavedModels"):
        layout(("a/saved_model.pb", "b/saved_model.pb"))


def test_a_keras_file_is_fetched_alone() -> None:
    found = layout(("README.md", "model.keras", "model.safetensors"))
    assert (found.framework, found.forms[0].paths) == ("TENSORFLOW", ("model.keras",))


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        (("config.json", "model.safetensors"), "optimum-cli export onnx --model org/name"),
        (("config.json", "pytorch_model.bin"), "PyTorch files, which run code.*onnx-community"),
        (("model-q4.gguf",), "Ollama serves: ollama pull hf.co/org/name"),
        (("model.json", "group1-shard1of1.bin"), r"TensorFlow\.js, which is not served"),
        (("README.md",), "no runtime is known to serve README.md"),
    ],
)
def test_what_nobody_serves_is_refused_with_what_to_do(paths: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UnsupportedFramework, match=sentence):
        layout(paths)


@pytest.mark.parametrize(
    ("paths", "folder", "fault"),
    [
        ((), "", ModelNotFound),
        (("model.onnx",), "other", ModelNotFound),
        ([f"m{number}.onnx" for number in range(101)], "", FileTooLarge),
        (["model.onnx", *(f"onnx__{number}" for number in range(10_001))], "", FileTooLarge),
    ],
)
def test_too_little_and_too_much_are_refused(paths: Iterable[str], folder: str, fault: type[DomainError]) -> None:
    with pytest.raises(fault):
        layout(paths, folder)


def test_a_name_made_to_be_slow_is_not() -> None:
    name = "model.onnx_data" + "1" * 200 + "x.data"  # in a pattern that can be read two ways, 2^200 of them
    assert layout(("model.onnx", name)).forms[0].paths == ("model.onnx", name)
