"""The recipe `onnx-optimize`: the parent's graph, rewritten beforehand as ONNX Runtime would each time it opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.provenance import code_sha256, environment
from services.trainer.recipes.recipe import Parameters
from services.trainer.task import Outcome

MAX_ROWS: Final = 1_000
DRAWN_ROWS: Final = 16


class OptimizeParameters(Parameters):
    """How far a graph is rewritten."""

    level: Literal["basic", "extended"] = "extended"
    """basic: constants folded, and what does nothing left out, in standard operators alone; extended: operators joined
    as well, into some that only ONNX Runtime has. What is tuned to one processor is left to whoever serves."""
    tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-4
    """How far an answer may be from the parent's, as a share of the largest; labels and texts must be equal."""
    label_column: Annotated[str, Field(max_length=128)] = ""
    """The column that is predicted, where rows are named and the parent doesn't say."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the inputs that are drawn where no rows are named."""


class OnnxOptimize:
    """Rewrites a graph, and holds it to the parent's answers: on rows where there are some, else on drawn inputs."""

    name: ClassVar[str] = "onnx-optimize"
    description: ClassVar[str] = (
        "Rewrites the parent's ONNX graph so that it runs faster and opens sooner, and checks it against the parent's "
        "answers to held-out rows, or to drawn inputs where no rows are named."
    )
    parameters: ClassVar[type[Parameters]] = OptimizeParameters
    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    reads_rows: ClassVar[bool] = False
    reads_parent: ClassVar[bool] = True

    def train(self, context: Context) -> Outcome:
        """Rewrite, compare and measure; see Recipe."""
        parameters = OptimizeParameters.told(context.parameters)
        # Imported here, for the service that lists the recipes does without.
        from services.trainer.recipes.held_out import HeldOut
        from services.trainer.recipes.onnx_comparison import furthest
        from services.trainer.recipes.onnx_parent import Graph, OnnxParent

        parent = OnnxParent.open(context, parameters.label_column)
        made = parent.made(context)
        nodes = rewrite(parent.source, made, parameters.level)
        parent.copy_the_rest(context)
        held_out = HeldOut.of(context, parent, MAX_ROWS)
        feeds = held_out.feeds if held_out else parent.drawn(DRAWN_ROWS, parameters.seed)
        graph = Graph(made)
        distance = furthest(parent.graph.run(feeds), graph.run(feeds))
        if distance > parameters.tolerance:
            raise TrainingFailed(
                f"the rewritten graph answers otherwise than the parent, by {distance:.3g} of the largest answer, and "
                f"{parameters.tolerance:g} is the tolerance; try the level basic",
                reason="INVALID_OUTCOME",
            )
        ran_with = environment("onnx", "onnxruntime", "numpy")
        return Outcome(
            framework=parent.version.framework,
            label=parent.label if held_out else parent.version.label,
            features=parent.features,
            input_name=parent.matrix,
            metrics={held_out.part: held_out.compared(graph)} if held_out else {},
            task_type=parent.version.task_type,
            classes=parent.version.classes,
            environment=ran_with,
            code_sha256=code_sha256(self.name, parameters.model_dump(), ran_with),
            metadata={"level": parameters.level, "largest_difference": distance, "nodes": nodes[1]},
            notes=(
                f"{nodes[0]} operators became {nodes[1]}",
                f"compared on {len(next(iter(feeds.values()), ()))} {'rows' if held_out else 'drawn inputs'}",
            ),
        )


def rewrite(source: Path, target: Path, level: str) -> tuple[int, int]:
    """Rewrite a graph into a file; gives how many operators it had, and has. Raises TrainingFailed(INVALID_OUTCOME)."""
    import onnx
    import onnxruntime
    from google.protobuf.message import EncodeError

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = {"basic": levels.ORT_ENABLE_BASIC, "extended": levels.ORT_ENABLE_EXTENDED}[level]
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's share no base
        raise TrainingFailed(f"ONNX Runtime does not rewrite it: {error}"[:800], reason="INVALID_OUTCOME") from error
    before = onnx.load(str(source), load_external_data=False)
    model = onnx.load(str(target), load_external_data=False)
    # Weights that lay beside the parent's graph are still looked for there; from now on they are in the file.
    onnx.external_data_helper.load_external_data_for_model(model, str(source.parent))
    _only_what_it_uses(model, before)
    try:
        onnx.save(model, str(target))
    except (ValueError, EncodeError) as error:
        sentence = "the graph has more than 2 GiB, which is more than one file of ONNX can hold"
        raise TrainingFailed(sentence, reason="INVALID_PARAMETERS") from error
    return len(before.graph.node), len(model.graph.node)


def _only_what_it_uses(model: Any, before: Any) -> None:
    """Leave out the sets of operators that ONNX Runtime names whether they are used or not, and keep who made it."""
    used = {node.domain for node in model.graph.node} | {node.domain for each in model.functions for node in each.node}
    kept = [each for each in model.opset_import if each.domain in used | {"", "ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.producer_name, model.producer_version = before.producer_name, before.producer_version
    if not model.metadata_props:
        model.metadata_props.extend(before.metadata_props)
