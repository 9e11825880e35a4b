"""Tiny models of TensorFlow and Keras, kind and hostile, made on the spot: each function writes one into a folder."""

from __future__ import annotations

import base64
import io
import json
import marshal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2


class _Linear(tf.Module):  # type: ignore[misc] # TensorFlow is not read by the type checker
    def __init__(self) -> None:
        self.weights = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))
        self.words = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), -1)

    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, x: Any, word: Any) -> dict[str, Any]:
        return {"y": tf.nn.softmax(x @ self.weights), "number": self.words.lookup(word)}


def linear(folder: Path) -> None:
    """`y = softmax(x·W)`, `number` of a word by a table: with variables, a table and the saver of TensorFlow itself."""
    module = _Linear()
    signature = module.__call__.get_concrete_function(
        tf.TensorSpec([None, 4], tf.float32, name="x"), tf.TensorSpec([None], tf.string, name="word")
    )
    tf.saved_model.save(module, str(folder), signatures=signature)


def calling(folder: Path, function: Callable[[Any], Any], *, dtype: Any = tf.float32, name: str = "x") -> None:
    """Serve any function of one tensor of shape [-1, 4]."""
    module = tf.Module()
    module.serve = tf.function(function, input_signature=[tf.TensorSpec([None, 4], dtype, name=name)])
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def with_two_signatures(folder: Path) -> None:
    """Serve under two names, neither of them the usual one."""
    module = tf.Module()
    module.serve = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    tf.saved_model.save(module, str(folder), signatures={"one": module.serve, "two": module.serve})


def with_vocabulary_file(folder: Path, vocabulary: Path) -> None:
    """Look words up in a table that is read from a file, which goes with the model as an asset."""
    vocabulary.write_text("a\nb\n")
    module = tf.Module()
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    module.words = tf.lookup.StaticHashTable(initializer, -1)
    module.serve = tf.function(
        lambda word: {"number": module.words.lookup(word)}, input_signature=[tf.TensorSpec([None], tf.string)]
    )
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def of_a_session(folder: Path) -> None:
    """`y = x·w`, trained and saved as in TensorFlow 1: its saver is nodes of the main graph, and runs when it loads."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        y = x * v1.Variable(tf.ones([4]), use_resource=True)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


def with_a_graph_inside(folder: Path, canary: Path) -> None:
    """Run a graph that writes the file `canary`, given as text to an operator that TensorFlow says has no state."""
    with tf.Graph().as_default() as hidden:
        wrote = tf.io.write_file(str(canary), "written")
        with tf.control_dependencies([wrote]):
            component = tf.constant("")
        dataset = tf.raw_ops.TensorDataset(components=[component], output_shapes=[tf.TensorShape([])])
    program = hidden.as_graph_def()
    returned = program.node.add(name="returned", op="_Retval", input=[f"{dataset.op.name}:0"])
    returned.attr["T"].type = tf.variant.as_datatype_enum
    returned.attr["index"].i = 0

    def body(x: Any) -> dict[str, Any]:
        made = tf.raw_ops.DatasetFromGraph(graph_def=tf.constant(program.SerializeToString()))
        return {"y": x + tf.cast(tf.raw_ops.DatasetCardinality(input_dataset=made), tf.float32)}

    calling(folder, body)


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    """Change the one graph of a SavedModel where it lies."""
    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(path.read_bytes())
    change(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())


def dense(path: Path) -> None:
    """A `.keras` file: input x FP32 [-1, 4], output y FP32 [-1, 3]."""
    inputs = keras.Input((4,), name="x")
    normal = keras.layers.BatchNormalization()(inputs)
    keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="y")(normal)).save(path)


def branched(path: Path) -> None:
    """A `.keras` file of two inputs, one of them text, and two outputs by name."""
    word, size = keras.Input((1,), dtype="string", name="word"), keras.Input((2,), name="size")
    number = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(word)
    joined = keras.layers.Concatenate()([number, size])
    outputs = {"large": keras.layers.Dense(2)(joined), "small": keras.layers.Dense(1)(joined)}
    keras.Model({"word": word, "size": size}, outputs).save(path)


def with_lambda(path: Path) -> None:
    """A `.keras` file with Python inside."""
    inputs = keras.Input((4,), name="x")
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2, name="y")(inputs)).save(path)


def with_python(path: Path, code: str) -> None:
    """A `.keras` file that runs this program as soon as it is loaded, if its Lambda layer is."""
    inputs = keras.Input((4,), name="x")
    harmless = eval("lambda x: x")  # its code is replaced below
    keras.Model(inputs, keras.layers.Lambda(harmless, name="y")(inputs)).save(path)
    hostile = eval(f"lambda x: exec({code!r}, {{}})").__code__

    def change(config: dict[str, Any]) -> None:
        function = config["config"]["layers"][-1]["config"]["function"]["config"]
        function["code"] = base64.b64encode(marshal.dumps(hostile)).decode()

    configure(path, change)


def rewrite(path: Path, **members: bytes | None) -> None:
    """Replace, add or (None) leave out members of a `.keras` file; `__` in a name is a `.`, and `_in_` a `/`."""
    with zipfile.ZipFile(path) as archive:
        held: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    held |= {name.replace("__", ".").replace("_in_", "/"): content for name, content in members.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in held.items():
            if content is not None:
                archive.writestr(name, content)


def configure(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the configuration in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    change(config)
    rewrite(path, config__json=json.dumps(config).encode())


def weights(write: Callable[[Any], None]) -> bytes:
    """Make a file of weights."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()
