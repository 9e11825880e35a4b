"""The recipe `keras-mlp`: dense layers of Keras, as ONNX or as a SavedModel, with their preprocessing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.keras_parent import NAME, Parent
from services.trainer.recipes.provenance import code_sha256, environment
from services.trainer.recipes.recipe import Parameters
from services.trainer.recipes.row_parameters import RowParameters
from services.trainer.recipes.rows import Rows
from services.trainer.task import Outcome, Part, TrainingType


class KerasMlpParameters(RowParameters):
    """What the network is like, and how it learns."""

    hidden_units: Annotated[tuple[Annotated[int, Field(ge=1, le=8_192)], ...], Field(max_length=16)] = (8, 4)
    """Units of each dense layer before the last, which answers: one unit with a sigmoid for two classes, a softmax of
    as many as there are for more, and one linear unit for a regression."""
    activation: Literal["relu", "tanh", "sigmoid", "elu", "selu", "softplus"] = "relu"
    """Of the hidden layers."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    """Of the optimiser, Adam."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 50
    """How often all training rows are gone through."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 4
    """Rows of a step."""
    early_stopping_patience: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """End after so many epochs without a lower loss on the validation rows, and keep the best epoch; none: never."""
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(ge=0, le=1e6)]] = "none"
    """What a row of a class weighs: balanced: rows / (classes * rows of the class); or a number by class, 1 where none
    is given."""
    checkpoint_every_epochs: Annotated[int, Field(ge=0, le=100_000)] = 10
    """How often what a rescued run goes on from is kept; 0: never."""
    format: Literal["onnx", "savedmodel"] = "onnx"
    """What the version is: onnx, served without TensorFlow, or a SavedModel. Both are made, and compared with Keras."""


class KerasMlp:
    """Trains dense layers; a FINETUNE goes on from the parent's weights, and keeps its columns and classes."""

    name: ClassVar[str] = NAME
    description: ClassVar[str] = (
        "Trains dense layers of Keras on rows, for two classes, more, or numbers; the version is ONNX or a SavedModel, "
        "with its preprocessing inside, checked against Keras' own answers."
    )
    parameters: ClassVar[type[Parameters]] = KerasMlpParameters
    needs: ClassVar[tuple[str, ...]] = ("tensorflow", "onnx", "onnxruntime")
    reads_rows: ClassVar[bool] = True
    reads_parent: ClassVar[bool] = False

    def train(self, context: Context) -> Outcome:
        """Train, export, compare and measure; see Recipe."""
        parameters = KerasMlpParameters.told(context.parameters)
        if importlib.util.find_spec("tensorflow") is None:
            raise TrainingFailed(
                "TensorFlow is not installed where this run is: install it there (pip install tensorflow-cpu), run it "
                "on an executor that has it, or use the recipe sklearn with the estimator MLPClassifier",
                reason="RECIPE_NOT_ALLOWED",
            )
        # Read when TensorFlow is imported: little to say, and the same numbers on every processor.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        parent = Parent.read(context.folder.parent) if context.task.type is TrainingType.FINETUNE else None
        if parent is None:
            rows = Rows.prepare(context, parameters)
        else:
            _refuse_other_shape(parameters, parent)
            rows = Rows.prepare_for(context, parameters, parent.preprocessing, parent.target)
        # Imported here: it takes seconds, and the service that lists the recipes does without.
        from services.trainer.recipes.keras_learning import begun, learn

        network = begun(rows, parameters, parent)
        stopped = learn(network, rows, parameters, context)
        made = Parent(rows.preprocessing, rows.target, network.weights)
        _export(context, parameters, rows, made, network)
        metrics = {part: rows.scores(part, network.answers(rows.matrix(part))) for part in Part if rows.count(part)}
        ran_with = environment("numpy", "tensorflow", "tensorflow-cpu", "keras", "onnx", "onnxruntime", "pyarrow")
        return Outcome(
            framework="ONNX" if parameters.format == "onnx" else "TENSORFLOW",
            label=parameters.label_column,
            features=rows.preprocessing.features,
            input_name=rows.preprocessing.input_name,
            metrics=metrics,
            task_type=rows.target.task_type,
            classes=rows.target.classes,
            environment=ran_with,
            code_sha256=code_sha256(self.name, parameters.model_dump(), ran_with),
            metadata={"layers": [[len(layer.bias), layer.activation] for layer in made.network]},
            notes=(*rows.notes, *stopped),
        )


def _refuse_other_shape(parameters: KerasMlpParameters, parent: Parent) -> None:
    """Refuse what was said, and the parent is not: weights fit one shape alone."""
    hidden = parent.network[:-1]
    is_so: Mapping[str, Any] = {
        "hidden_units": tuple(len(layer.bias) for layer in hidden),
        "activation": hidden[0].activation if hidden else parameters.activation,
        "feature_columns": parent.preprocessing.order,
        "task": parent.target.task_type,
    }
    unsaid = {"feature_columns": (), "task": "auto"}
    for name in sorted(parameters.model_fields_set & is_so.keys()):
        said = getattr(parameters, name)
        if said != is_so[name] and said != unsaid.get(name):
            raise TrainingFailed(
                f"{name} is {said!r}, and the parent's is {is_so[name]!r}: a finetune goes on from its weights; leave "
                f"{name} out, or start a RETRAIN",
                reason="INVALID_PARAMETERS",
            )


def _export(context: Context, parameters: KerasMlpParameters, rows: Rows, made: Parent, network: Any) -> None:
    """Write both, compare both with Keras, and leave the one that is asked for."""
    from services.trainer.recipes import agreement, keras_saved_model, onnx_version
    from services.trainer.recipes.keras_onnx import write_onnx

    if parameters.format == "savedmodel" and (foreign := keras_saved_model.foreign_names(rows.preprocessing)):
        raise TrainingFailed(
            f"with texts among them each column is an input, and TensorFlow takes {foreign[0]!r} for no name: call the "
            "column by ASCII letters, digits and _, or leave `format` at onnx",
            reason="INVALID_PARAMETERS",
        )
    aside = context.folder.out / "other"
    graph = (context.artifact if parameters.format == "onnx" else aside) / "model.onnx"
    saved = aside if parameters.format == "onnx" else context.artifact
    aside.mkdir(parents=True, exist_ok=True)
    write_onnx(graph, made)
    keras_saved_model.write(saved, made.preprocessing, made.target, made.network, made.to_json())
    tried = rows.tried()
    own, inputs = network.answers(rows.preprocessing.matrix(tried)), rows.preprocessing.served(tried)
    agreement.check("the ONNX graph", onnx_version.run(graph, inputs), own, rows.target)
    agreement.check("the SavedModel", keras_saved_model.run(saved, rows.preprocessing, inputs), own, rows.target)
    shutil.rmtree(aside)
