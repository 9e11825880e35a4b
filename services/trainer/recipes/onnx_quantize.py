"""The recipe `onnx-quantize`: the parent's graph with its weights as whole numbers of eight bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.provenance import code_sha256, environment
from services.trainer.recipes.recipe import Parameters
from services.trainer.task import Outcome, Part

if TYPE_CHECKING:
    from services.trainer.recipes.onnx_parent import OnnxParent

MAX_ROWS: Final = 10_000
OPERATORS: Final = ("MatMul", "Gemm", "Conv")
"""What has weights that are worth it; what prepares the inputs stays as it is."""
_QUANTIZED: Final = ("QLinear", "QuantizeLinear", "DynamicQuantize", "MatMulInteger", "ConvInteger", "QGemm")
_CALIBRATION_BATCH: Final = 64
_OWN_DOMAIN: Final = "com.microsoft"
"""Of operators that only ONNX Runtime has, such as those that onnx-optimize makes of several."""


class QuantizeParameters(Parameters):
    """How a graph is quantised, and how far it may stray."""

    method: Literal["dynamic", "static"] = "dynamic"
    """dynamic: weights beforehand, and what flows through by each batch's own extremes, so that such a version is not
    batched; static: both beforehand, by the training rows, so that rows stay independent of each other."""
    calibration_rows: Annotated[int, Field(ge=1, le=100_000)] = 512
    """Of static: so many training rows say how large what flows through gets."""
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    """Of static: how a range is read off them."""
    per_channel: bool = False
    """A scale for each channel of the weights, not one for all: closer, and somewhat larger."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.98
    """Of classes: the share of held-out rows that must get the parent's label."""
    max_score_drop: Annotated[float, Field(ge=0, le=1)] = 0.02
    """How much worse it may be than the parent on held-out rows with labels: of classes accuracy, in its own unit; of
    a regression rmse, as a share of the parent's."""
    max_difference: Annotated[float, Field(ge=0, le=10)] = 0.1
    """Of a regression: how far its numbers may be from the parent's on average, in the parent's standard deviations."""
    label_column: Annotated[str, Field(max_length=128)] = ""
    """The column that is predicted, where the parent doesn't say."""


class OnnxQuantize:
    """Quantises a graph, and refuses what strays too far from the parent on rows that neither has learned from."""

    name: ClassVar[str] = "onnx-quantize"
    description: ClassVar[str] = (
        "Makes the weights of the parent's ONNX graph eight-bit integers, a quarter of the size, and checks the labels "
        "and scores of the result against the parent's on held-out rows."
    )
    parameters: ClassVar[type[Parameters]] = QuantizeParameters
    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    reads_rows: ClassVar[bool] = True
    reads_parent: ClassVar[bool] = True

    def train(self, context: Context) -> Outcome:
        """Quantise, compare and measure; see Recipe."""
        parameters = QuantizeParameters.told(context.parameters)
        # Imported here, for the service that lists the recipes does without.
        from services.trainer.recipes.held_out import HeldOut
        from services.trainer.recipes.onnx_parent import Graph, OnnxParent

        parent = OnnxParent.open(context, parameters.label_column)
        _refuse_joined(parent.source)
        held_out = HeldOut.of(context, parent, MAX_ROWS)
        if held_out is None or held_out.own is None:
            raise TrainingFailed(
                "the parent can't be compared on rows: each of its inputs must be a matrix whose columns the registry "
                "knows, or a column, and its outputs a label, probabilities or a number",
                reason="INVALID_PARAMETERS",
            )
        made = parent.made(context)
        _quantize(context, parent, made, parameters)
        parent.copy_the_rest(context)
        metrics = held_out.compared(Graph(made))
        _check(metrics, parameters)
        sizes = {"size_bytes": made.stat().st_size, "parent_size_bytes": parent.source.stat().st_size}
        ran_with = environment("onnx", "onnxruntime", "numpy")
        return Outcome(
            framework=parent.version.framework,
            label=parent.label,
            features=parent.features,
            input_name=parent.matrix,
            metrics={held_out.part: metrics | {name: float(size) for name, size in sizes.items()}},
            task_type=parent.version.task_type,
            classes=parent.version.classes,
            environment=ran_with,
            code_sha256=code_sha256(self.name, parameters.model_dump(), ran_with),
            metadata={"method": parameters.method, **sizes},
            notes=(f"{sizes['parent_size_bytes']:,} bytes became {sizes['size_bytes']:,}",),
        )


class _Rows:
    """Training rows, a batch at a time, as ONNX Runtime's calibration asks for them."""

    def __init__(self, feeds: Mapping[str, Any]) -> None:
        self._feeds = feeds
        self._at = 0

    def get_next(self) -> dict[str, Any] | None:
        """Give the next batch; None: there are no more."""
        batch = {name: rows[self._at : self._at + _CALIBRATION_BATCH] for name, rows in self._feeds.items()}
        self._at += _CALIBRATION_BATCH
        return batch if all(len(rows) for rows in batch.values()) else None

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> dict[str, Any]:
        batch = self.get_next()
        if batch is None:
            raise StopIteration
        return batch


def _refuse_joined(source: Path) -> None:
    """Raise TrainingFailed(INVALID_PARAMETERS) of a graph with operators of ONNX Runtime's own.

    Its quantiser does not look into them, and does not know what comes out of them: it fails, or leaves weights as
    they are and says nothing.
    """
    import onnx

    nodes = onnx.load(str(source), load_external_data=False).graph.node
    if own := sorted({node.op_type for node in nodes if node.domain == _OWN_DOMAIN}):
        raise TrainingFailed(
            f"the parent has operators that only ONNX Runtime has, which it cannot quantise ({', '.join(own)[:200]}); "
            "where onnx-optimize made it, quantise the version that it was made of (its parent), or optimise that with "
            "the level basic first",
            reason="INVALID_PARAMETERS",
        )


def _quantize(context: Context, parent: OnnxParent, made: Path, parameters: QuantizeParameters) -> None:
    import onnx
    from onnxruntime import quantization

    common = {"op_types_to_quantize": list(OPERATORS), "per_channel": parameters.per_channel}
    weights = {"weight_type": quantization.QuantType.QInt8}
    model = onnx.load(str(parent.source))  # not by its path: ONNX Runtime writes beside it, and it is the parent's
    try:
        if parameters.method == "dynamic":
            quantization.quantize_dynamic(model, made, **common, **weights)
        else:
            rows = parent.feeds(context.rows(Part.TRAIN).slice(0, parameters.calibration_rows))
            quantization.quantize_static(
                model,
                made,
                _Rows(rows),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QInt8,
                calibrate_method=_METHODS[parameters.calibration](quantization.CalibrationMethod),
                **common,
                **weights,
            )
    except TrainingFailed:
        raise
    except Exception as error:  # whatever the library raises of a graph that it does not expect
        sentence = f"ONNX Runtime does not quantise the parent's graph: {type(error).__name__}: {error}"
        raise TrainingFailed(sentence[:800], reason="INVALID_OUTCOME") from error
    if not any(node.op_type.startswith(_QUANTIZED) for node in onnx.load(str(made)).graph.node):
        raise TrainingFailed(
            f"the parent has nothing to quantise: none of its operators is {', '.join(OPERATORS)} with weights of its "
            "own (trees have none); onnx-optimize may make it faster",
            reason="INVALID_PARAMETERS",
        )


_METHODS: Final = {
    "minmax": lambda methods: methods.MinMax,
    "entropy": lambda methods: methods.Entropy,
    "percentile": lambda methods: methods.Percentile,
}


def _check(metrics: Mapping[str, float], parameters: QuantizeParameters) -> None:
    """Let it pass, or raise TrainingFailed(INVALID_OUTCOME): it strays too far from the parent."""
    if strayed := _of_numbers(metrics, parameters) if "difference" in metrics else _of_classes(metrics, parameters):
        raise TrainingFailed(
            f"the quantised graph strays too far from the parent: {strayed}; try per_channel, the method static with "
            "more calibration rows, or allow more",
            reason="INVALID_OUTCOME",
        )


def _of_classes(metrics: Mapping[str, float], parameters: QuantizeParameters) -> str:
    agreement, least = metrics.get("agreement", 0.0), parameters.min_agreement
    if agreement < least:
        return f"it gives the parent's label to {agreement:.1%} of the rows, and min_agreement is {least:.1%}"
    drop = metrics.get("parent_accuracy", 0.0) - metrics.get("accuracy", 0.0)
    if drop > parameters.max_score_drop:
        return f"its accuracy is {drop:.3g} lower, and max_score_drop is {parameters.max_score_drop:g}"
    return ""


def _of_numbers(metrics: Mapping[str, float], parameters: QuantizeParameters) -> str:
    difference, rmse, parents = (metrics.get(name, 0.0) for name in ("difference", "rmse", "parent_rmse"))
    if difference > parameters.max_difference:
        return (
            f"its numbers are {difference:.3g} of the parent's standard deviation away on average, and max_difference "
            f"is {parameters.max_difference:g}"
        )
    if rmse > parents * (1 + parameters.max_score_drop):
        most = parameters.max_score_drop
        return f"its rmse is {rmse:.4g} where the parent's is {parents:.4g}, and max_score_drop is {most:g}"
    return ""
