"""What the registry takes of a plan, by its files' names alone, so that it refuses nothing once all is here."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from google.protobuf.json_format import MessageToDict, ParseDict

from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.uploads import framework_of
from services.common import bundle_metadata, model_files
from services.common.errors import InvalidArgument
from services.fetcher.faults import RegistrationRefused, UnsupportedFramework
from services.fetcher.models import Plan
from services.fetcher.sources.file_names import shown

_MOST_SHOWN: Final = 5


def carried(plan: Plan, target: FetchTarget) -> tuple[Plan, tuple[str, ...]]:
    """Leave out of a Transformers bundle the pickles and the code that it may not carry; gives sentences on them."""
    if _framework(plan, target) != registry.FRAMEWORK_TRANSFORMERS:
        return plan, ()
    unsafe = {file.path: why for file in plan.files if (why := model_files.unsafe_because(file.path))}
    files = tuple(file for file in plan.files if file.path not in unsafe)
    sentences = (f"{shown(path)} is left out of the bundle: it {why}" for path, why in unsafe.items())
    return replace(plan, files=files), tuple(sentences)


def check_layout(plan: Plan, target: FetchTarget) -> None:
    """See that a plan has one model, and that serving knows what is said of it.

    Raises:
        UnsupportedFramework: it has several graphs.
        RegistrationRefused: a bundle's metadata are no such thing.
    """
    framework = _framework(plan, target)
    if framework not in (registry.FRAMEWORK_ONNX, registry.FRAMEWORK_TRANSFORMERS):
        return
    graphs = model_files.graphs(file.path for file in plan.files)
    if len(graphs) > 1 and model_files.main_graph(graphs) is None:
        names = ", ".join(map(shown, graphs[:_MOST_SHOWN]))
        raise UnsupportedFramework(
            "a version with an ONNX graph holds one .onnx file, or several of which one is model.onnx or "
            f"onnx/model.onnx: {names}; fetch one of them by itself, or from a folder of its own"
        )
    if framework == registry.FRAMEWORK_TRANSFORMERS:
        metadata = ParseDict(dict(plan.metadata), registry.Metadata())
        metadata.MergeFrom(target.metadata)
        try:
            bundle_metadata.check(metadata.task_type, MessageToDict(metadata.fields))
        except InvalidArgument as error:
            raise RegistrationRefused(f"the registry refuses it: {error.message} ({error.reason})") from error


def _framework(plan: Plan, target: FetchTarget) -> registry.Framework.ValueType | None:
    """Give what it is served by; None: nobody knows, as of an archive, whose name says nothing of what it has."""
    if plan.unpack:
        return None
    said = registry.Framework.Value(f"FRAMEWORK_{plan.framework}") if plan.framework else None
    return target.framework or said or framework_of(file.path for file in plan.files)
