"""What a registration says of a signature, and what the file says: compared, and put together."""

from __future__ import annotations

from dataclasses import replace

from services.common.errors import InvalidArgument
from services.registry.models import Signature, TensorSpec
from services.registry.serving import ServingSettings, WarmUpTensor
from services.registry.validation import report
from services.registry.validation.report import Failure, FailureReason, check_declared


def reconcile(declared: Signature | None, found: report.Signature) -> Signature | Failure:
    """Take the file's signature and the declared columns; a declaration that contradicts the file is a failure."""
    if declared is None:
        return Signature(_with_columns(found.inputs, {}), _with_columns(found.outputs, {}))
    declared = Signature(_completed(declared.inputs, found.inputs), _completed(declared.outputs, found.outputs))
    failure = check_declared(_without_columns(declared), found) or _columns_differ(declared, found)
    if failure is not None:
        return failure
    return Signature(
        _with_columns(found.inputs, {spec.name: spec.columns for spec in declared.inputs}),
        _with_columns(found.outputs, {spec.name: spec.columns for spec in declared.outputs}),
    )


def check_warm_ups(settings: ServingSettings, signature: Signature | None) -> None:
    """Let warm-up requests pass that the model can take, as far as its signature is known.

    Raises:
        InvalidArgument: a tensor is none of the inputs, or of another datatype or shape (SIGNATURE_MISMATCH).
    """
    if signature is None:
        return
    inputs = {spec.name: spec for spec in signature.inputs}
    # Where only columns are declared, the names of the others are for the file to say.
    complete = bool(inputs) and all(spec.datatype for spec in signature.inputs)
    for index, warm_up in enumerate(settings.warm_up):
        for number, tensor in enumerate(warm_up.tensors):
            spec = inputs.get(tensor.name)
            field = f"serving_settings.warm_up[{index}].tensors[{number}]"
            if spec is not None and spec.datatype:
                _check_warm_up(field, tensor, spec)
            elif spec is None and complete:
                raise InvalidArgument.field(
                    field, f"{tensor.name!r} is no input; there are {', '.join(inputs)}", reason="SIGNATURE_MISMATCH"
                )


def _check_warm_up(field: str, tensor: WarmUpTensor, spec: TensorSpec) -> None:
    fits = len(tensor.shape) == len(spec.shape) and all(
        wanted in (-1, size) for size, wanted in zip(tensor.shape, spec.shape, strict=True)
    )
    if not fits or tensor.datatype != spec.datatype:
        raise InvalidArgument.field(
            field,
            f"{tensor.name!r} is {tensor.datatype} {list(tensor.shape)}; the model takes {spec.datatype} "
            f"{list(spec.shape)}, -1 for any size",
            reason="SIGNATURE_MISMATCH",
        )


def _completed(declared: tuple[TensorSpec, ...], found: tuple[report.TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Fill in what a declaration leaves to the file.

    A tensor without a datatype declares nothing but its columns, and where there is only one it needs no name. A side
    of which nothing else is declared is the file's own.
    """
    real = {spec.name: spec for spec in found}
    completed: dict[str, TensorSpec] = {}
    for spec in declared:
        name = found[0].name if spec.name == "" and len(found) == 1 else spec.name
        if spec.datatype or name not in real:
            completed[name] = replace(spec, name=name)
        else:
            completed[name] = TensorSpec(name, real[name].datatype, real[name].shape, spec.columns)
    if not any(spec.datatype for spec in declared):
        for name, own in real.items():
            completed.setdefault(name, TensorSpec(name, own.datatype, own.shape))
    return tuple(completed.values())


def _with_columns(specs: tuple[report.TensorSpec, ...], columns: dict[str, tuple[str, ...]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec.name, spec.datatype, spec.shape, columns.get(spec.name, ())) for spec in specs)


def _without_columns(signature: Signature) -> report.Signature:
    def bare(specs: tuple[TensorSpec, ...]) -> tuple[report.TensorSpec, ...]:
        return tuple(report.TensorSpec(spec.name, spec.datatype, spec.shape) for spec in specs)

    return report.Signature(bare(signature.inputs), bare(signature.outputs))


def _columns_differ(declared: Signature, found: report.Signature) -> Failure | None:
    real = {spec.name: spec.shape for spec in (*found.inputs, *found.outputs)}
    for spec in (*declared.inputs, *declared.outputs):
        shape = real[spec.name]
        if spec.columns and (len(shape) != 2 or shape[1] not in (-1, len(spec.columns))):
            return Failure(
                FailureReason.SIGNATURE_MISMATCH,
                f"{len(spec.columns)} columns are declared for {spec.name!r}, whose shape in the file is "
                f"{list(shape)}; a tensor of rank 2 takes as many columns as its last dimension",
            )
    return None
