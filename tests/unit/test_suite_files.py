"""Suite files as people write them: what is taken as written, and what is refused with its line and a way out."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.exits import CommandError
from penstock.cli.options import Stage
from penstock.cli.suites.reading import MAX_FILE_BYTES
from penstock.cli.suites.schema import PathSource, Suite, read_suite
from penstock.tensors import to_tensor
from penstock.values import from_value, to_struct

VERSION = "suite: s\nmodels:\n- name: m\n  versions:\n  - version: 1\n    source: {path: m.onnx}\n    "
MODEL = "suite: s\nmodels:\n- name: m\n  "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(b"m")
    return tmp_path


def read(folder: Path, text: str | bytes) -> Suite:
    file = folder / "suite.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_suite(file)


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(CommandError) as caught:
        read(folder, text)
    assert (caught.value.reason, caught.value.exit_code) == ("INVALID_SUITE", 2)
    return caught.value.message.replace(f"{folder}/", "")


def test_scalars_are_taken_as_they_are_written(folder: Path) -> None:
    (model,) = read(
        folder,
        MODEL + "labels: {country: no, build: 0123}\n  aliases: {a: 1.10}\n"
        "  versions:\n  - version: 1.10\n    source: {path: m.onnx}\n    stage: Production\n    columns: [yes, 1.50]\n",
    ).models
    assert model.labels == {"country": "no", "build": "0123"}
    assert model.aliases == {"a": "1.10"}
    (version,) = model.versions
    assert (version.version, version.stage, version.columns) == ("1.10", Stage.PRODUCTION, ("yes", "1.50"))
    assert version.source == PathSource(folder / "m.onnx")


def test_where_any_value_may_stand_kinds_are_written_as_in_json(folder: Path) -> None:
    """What docs/suites.md promises of `parameters` and `fields`."""
    written = {
        "no": "no", "yes": "yes", "on": "on", "true": True, "False": False, '"true"': "true",
        "null": None, "~": None, "'null'": "null",
        "3": 3, "-0.5": -0.5, "1e3": 1000, "1.10": 1.1, '"1.10"': "1.10", "2e-05": 2e-05,
        "0123": "0123", "+1": "+1", "1_000": "1_000", "0x1f": "0x1f", "1:30": "1:30", "2026-01-31": "2026-01-31",
    }  # fmt: skip
    fields = ", ".join(f"f{number}: [{value}]" for number, value in enumerate(written))
    (model,) = read(folder, VERSION + f"metadata: {{fields: {{{fields}}}}}").models
    metadata = model.versions[0].metadata
    assert metadata is not None
    found = [from_value(metadata.fields.fields[f"f{number}"]) for number in range(len(written))]
    assert found == [[value] for value in written.values()]
    assert [type(value) for (value,) in found if isinstance(value, bool)] == [bool, bool]


def test_all_that_there_is_to_say_arrives(folder: Path) -> None:
    (model,) = read(
        folder,
        MODEL + "training_config:\n    recipe: sklearn\n    data_source: d\n"
        "    parameters: {n: 3, x: 1.5, yes: true, none: null, list: [a, 1]}\n"
        "    success_criteria: [{metric: loss, at_most: 0.1}]\n"
        "  capture_policy: {share: 0, max_bytes: 10, disabled: true}\n"
        "  versions:\n  - version: v\n    source: {ollama: llama3.2, mode: embed}\n"
        "    metadata: {task_type: t, equivalence_group: g, output_dimensions: 3, tags: [a], fields: {k: v}}\n"
        "    serving_settings: {pinned: true}\n",
    ).models
    assert model.training_config is not None
    parameters = {name: from_value(value) for name, value in model.training_config.parameters.fields.items()}
    assert parameters == {"n": 3, "x": 1.5, "yes": True, "none": None, "list": ["a", 1]}
    assert model.training_config.success_criteria == [
        pb.SuccessCriterion(metric="loss", comparison=pb.COMPARISON_AT_MOST, threshold=0.1)
    ]
    assert model.capture_policy == pb.CapturePolicy(share=0, max_bytes=10, disabled=True)
    (version,) = model.versions
    assert version.source == pb.OllamaReference(model="llama3.2", mode=pb.OLLAMA_MODE_EMBED)
    assert version.metadata is not None
    assert (version.metadata.output_dimensions, list(version.metadata.tags)) == (3, ["a"])
    assert version.serving_settings == pb.ServingSettings(pinned=True)
    assert model.serving_settings is None, "what is not said is not said"


def test_every_serving_setting_can_be_written_and_warm_ups_from_values(folder: Path) -> None:
    (model,) = read(
        folder,
        MODEL + "serving_settings:\n"
        "    {max_batch_size: 32, max_queue_delay_us: 500, max_queue_size: 9, queue_full_action: Displace,\n"
        "     priority_levels: 2, default_priority: 1, timeout_ms: 5, instances: 3, preload: true, max_in_flight: 4,\n"
        "     pinned: true, response_cache: {enabled: true, ttl_ms: 60000, max_answer_bytes: 7},\n"
        "     feature_view: {view: v, names: {a: b}, missing_action: use_nan, defaults: {a: 1.5, c: 'no', d: false}},\n"
        "     warm_up: [{row_count: 8, repeat_count: 2}, {tensors: [\n"
        "       {name: X, datatype: FP32, values: [[1, 2.5]]}, {name: t, datatype: bytes, values: ['1', no]},\n"
        "       {name: n, datatype: uint8, values: [0, 255]}, {name: b, datatype: bool, values: true}]}]}\n",
    ).models
    texts = to_tensor("t", ["1", "no"])
    tensors = [to_tensor("X", np.array([[1, 2.5]], "f4")), texts, to_tensor("n", np.array([0, 255], "u1"))]
    tensors.append(to_tensor("b", True))
    assert model.serving_settings == pb.ServingSettings(
        max_batch_size=32, max_queue_delay_us=500, max_queue_size=9, queue_full_action=pb.QUEUE_FULL_ACTION_DISPLACE,
        priority_levels=2, default_priority=1, timeout_ms=5, instances=3, preload=True, max_in_flight=4, pinned=True,
        warm_up=[pb.WarmUpRequest(row_count=8, repeat_count=2), pb.WarmUpRequest(tensors=tensors)],
        response_cache=pb.ResponseCachePolicy(enabled=True, ttl_ms=60_000, max_answer_bytes=7),
        feature_view=pb.FeatureViewPolicy(
            view="v", names={"a": "b"}, missing_action=pb.MISSING_FEATURE_ACTION_USE_NAN,
            defaults=to_struct({"a": 1.5, "c": "no", "d": False}),
        ),
    )  # fmt: skip
    assert len(model.serving_settings.ListFields()) == len(pb.ServingSettings.DESCRIPTOR.fields)


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        ("{name: X, datatype: FP32, values: [[1], [1, 2]]}", "values: are lists of different lengths"),
        ("{name: X, datatype: FP32, values: [a]}", "values: are not all FP32"),
        ("{name: X, datatype: INT64, values: [1.5]}", "values: are not all INT64"),
        ("{name: X, datatype: UINT8, values: [256]}", "values: are beyond UINT8, which is 0 to 255"),
        ("{name: X, datatype: BYTES, values: [1]}", "values: are not all BYTES"),
        ("{name: X, datatype: BF16, values: [1]}", "datatype: 'BF16' is not one of bool, uint8"),
        ("{name: X, datatype: FP32}", "tensors[0]: needs 'values'"),
        ("{name: X, datatype: FP32, values: }", "values: has no value"),
        ("{name: X, datatype: FP32, values: [], shape: [0]}", "shape: is no field here"),
    ],
)
def test_values_that_their_datatype_does_not_hold_are_refused(folder: Path, tensor: str, sentence: str) -> None:
    said = refusal(folder, MODEL + "serving_settings: {warm_up: [{tensors: [" + tensor + "]}]}\n")
    assert sentence in said
    assert "models[0].serving_settings.warm_up[0].tensors[0]" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "suite.yaml:1: is empty"),
        ("suite: [", "suite.yaml:2: is no YAML"),
        ("models: []", "suite.yaml:1: needs 'suite'"),
        ("suite: s", "needs 'models'"),
        ("- a", "takes fields, `name: value` each, and not a list"),
        ("suite: s\nmodels: {}\n", "suite.yaml:2: models: takes a list"),
        ("suite: s\nmodels: []\nmodel: []\n", "suite.yaml:3: model: is no field here; did you mean models?"),
        ("suite: s\nsuite: t\nmodels: []\n", "suite.yaml:2: suite: stands twice"),
        ("suite: a b\nmodels: []\n", "suite: 'a b' is no name"),
        ("suite: s\nmodels: [{name: m}, {name: m}]\n", "models[1]: m stands in line 2 already"),
        (MODEL + "tags: flowers", "models[0].tags: takes a list of texts"),
        (MODEL + "labels: {penstock.io/suite: x}", "set by apply"),
        (MODEL + "labels: {Team: x}", "'Team' is no label"),
        (MODEL + "labels: {team: }", "has no value"),
        (MODEL + "aliases: {production: 1}", "has a meaning already"),
        (MODEL + "capture_policy: {share: 2}", "models[0].capture_policy.share: is 2; 0 to 1 is allowed"),
        (MODEL + "capture_policy: {share: nan}", "takes a number, not 'nan'"),
        (MODEL + "capture_policy: {share: 1e999}", "0 to 1 is allowed"),
        (MODEL + "serving_settings: {max_in_flight: 1_0}", "takes a whole number, not '1_0'"),
        (MODEL + "serving_settings: {max_in_flight: 1.0}", "takes a whole number, not '1.0'"),
        (MODEL + "serving_settings: {pinned: yes}", "takes true or false, not 'yes'"),
        (MODEL + "serving_settings: {max_in_flight: few}", "takes a whole number, not 'few'"),
        (MODEL + "serving_settings: {pinned: maybe}", "takes true or false"),
        (MODEL + "training_config: {success_criteria: [{metric: a}]}", "one of at_least and at_most"),
        (MODEL + "training_config: {success_criteria: [{metric: a, at_least: .inf}]}", "takes a number, not '.inf'"),
        (MODEL + "training_config: {success_criteria: [{metric: a, at_least: 1e999}]}", "is 1e999"),
        (
            MODEL + "training_config:\n    parameters:\n      a:\n      - {x: 1}\n      - {x: 1, y: {k: 1,\n k: 2}}",
            "suite.yaml:9: models[0].training_config.parameters.a[1].y.k: stands twice",
        ),
        (MODEL + "training_config: {parameters: {a: {[b]: 1}}}", "parameters.a: a field's name is a plain text"),
        (MODEL + "training_config: {parameters: {n: 1.0e+999}}", "parameters.n: 1.0e+999 is no finite number"),
        (MODEL + "training_config: {parameters: {n: [-.INF]}}", "parameters.n[0]: -.INF is no finite number"),
        (MODEL + "training_config: {parameters: {n: " + "9" * 5_000 + "}}", "is no finite number"),
        (MODEL + "training_config: {parameters: {a: !!bool maybe}}", "suite.yaml:4: tags (!) are not taken"),
        (MODEL + "training_config: {parameters: {n: 99999999999999999}}", "2^53"),
        (VERSION + "stage: prod", "suite.yaml:7: models[0].versions[0].stage: 'prod' is not one of development"),
        (VERSION + "stage: prodution", "did you mean production?"),
        (VERSION + "note: [a]", "takes a single value, and not a list"),
        (VERSION + "description: " + "x" * 5_000, "has 5,000 characters; 4,096 are allowed"),
        (VERSION.replace("m.onnx", "gone.onnx"), "gone.onnx does not exist; relative paths begin at"),
        (VERSION.replace("{path: m.onnx}", "{path: ., unpack: true}"), "is a folder; leave unpack out"),
        (VERSION.replace("{path: m.onnx}", "{ollama: x, mode: talk}"), "not one of chat, generate, embed"),
        (VERSION.replace("{path: m.onnx}", "{ollama: x}"), "needs 'mode'"),
        (VERSION.replace("{path: m.onnx}", "{}"), "takes one of `path`, `ollama`"),
        (VERSION.replace("    source: {path: m.onnx}\n", ""), "needs 'source'"),
        (VERSION.replace("version: 1", "version: a/b"), "'a/b' is none"),
        (b"suite: \xff", "is no text in UTF-8"),
        ("suite: s\x00", "is no YAML"),
        ("suite: s\nmodels: []\n---\nsuite: t\n", "is no YAML"),
        ("suite: &a s\nmodels: [*a]\n", "suite.yaml:1: anchors and aliases (& and *) are not taken"),
        ("suite: " + "[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("#" + "x" * MAX_FILE_BYTES, "is over 1,048,576 bytes"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_a_way_out(folder: Path, text: str | bytes, sentence: str) -> None:
    assert sentence in refusal(folder, text)


def test_all_that_is_wrong_is_said_at_once_and_in_order(folder: Path) -> None:
    said = refusal(folder, VERSION + "stage: prod\n    notes: x\n  tag: [a]\n").splitlines()
    assert [line.partition(": ")[0] for line in said[1:]] == ["suite.yaml:7", "suite.yaml:8", "suite.yaml:9"]
    many = refusal(folder, MODEL + "\n  ".join(f"wrong{number}: 1" for number in range(30)))
    assert len(many.splitlines()) == 22
    assert "and 10 more" in many


def test_a_bomb_is_refused_before_it_goes_off(folder: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert "anchors" in refusal(folder, "\n".join(lines))


def test_python_is_never_run(folder: Path) -> None:
    said = refusal(folder, "suite: !!python/object/apply:os.system ['touch ran']\nmodels: []\n")
    assert "tags (!) are not taken" in said
    assert not (folder / "ran").exists()


JUNK: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["suite", "models", "name", "versions", "version", "source", "path", "labels", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(document=JUNK)
def test_whatever_stands_there_is_read_or_refused_in_words(
    document: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "junk"
    folder.mkdir(exist_ok=True)
    with suppress(CommandError):  # anything else is a defect
        read(folder, yaml.safe_dump(document, allow_unicode=True))


def test_the_reference_is_a_suite_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "suites.md").read_text()
    reference, serving, watching = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (served,) = read(folder, f"suite: s\nmodels:\n  - name: m\n{serving}").models
    assert served.serving_settings is not None
    assert len(served.serving_settings.ListFields()) == len(pb.ServingSettings.DESCRIPTOR.fields), "one of them is new"
    for name in ("iris.onnx", "bundle.tar.gz"):
        (folder / name).touch()
    assert [model.name for model in read(folder, reference).models] == ["iris", "chat", "minilm"]
    (folder / "hook.url").write_text("https://example.org/hook")
    for variable in re.findall(r"_env: (\w+)", watching):
        monkeypatch.setenv(variable, "set")
    watched = read(folder, f"suite: s\n{watching}")
    assert [channel.name for channel in watched.channels] == ["ops", "mail"]
    assert [len(model.alert_rules or ()) for model in watched.models] == [2]
