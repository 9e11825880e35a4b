"""The parent version's files, for recipes that begin with them."""

from __future__ import annotations

from collections.abc import Callable

from penstock import Client
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.tensors.v1 import tensors_pb2 as tensors
from penstock.errors import PenstockError
from services.common.checks import file_path
from services.common.jobs import JobRun
from services.trainer.faults import TrainingFailed
from services.trainer.recipes.parent_version import ParentInput, ParentVersion
from services.trainer.registering.answers import registry_answers
from services.trainer.runs.models import RunSpec
from services.trainer.task import RunFolder, TrainingType


class Parents:
    """Brings parents. `max_bytes`: of all files of one."""

    def __init__(self, open_client: Callable[[], Client], max_bytes: int) -> None:
        self._open_client = open_client
        self._max_bytes = max_bytes

    def bring(self, run: JobRun, spec: RunSpec, folder: RunFolder, *, always: bool) -> None:
        """Write the parent's files, and what the registry says of it, where the run begins with them.

        Raises:
            TrainingFailed: they are more than is allowed (TOO_MUCH_OUTPUT).
            RegistrationFailed, RegistryUnavailable: see `registry_answers`.
        """
        if not (always or spec.type is TrainingType.FINETUNE) or not spec.parent_version:
            return
        with registry_answers(), self._open_client() as client:
            run.on_stop(client.close)
            try:
                version = client.registry.get_version(spec.model, spec.parent_version)
                if sum(file.size_bytes for file in version.files) > self._max_bytes:
                    sentence = f"{spec.model} {spec.parent_version} is larger than {self._max_bytes:,} bytes"
                    raise TrainingFailed(sentence, reason="TOO_MUCH_OUTPUT")
                for file in version.files:
                    path = folder.parent / file_path("files.path", file.path)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    client.registry.download(spec.model, spec.parent_version, path, path=file.path)
                described(version).write(folder)
            except PenstockError:
                run.check()  # what it stumbled over may be its own end
                raise
            finally:
                run.forget(client.close)


def described(version: registry.ModelVersion) -> ParentVersion:
    """Say of a version what its files don't: what its inputs mean, and what it answers."""
    fields = version.metadata.fields.fields
    return ParentVersion(
        version=version.version,
        framework=registry.Framework.Name(version.framework).removeprefix("FRAMEWORK_"),
        inputs=tuple(
            ParentInput(
                spec.name,
                tensors.DataType.Name(spec.datatype).removeprefix("DATA_TYPE_"),
                tuple(spec.shape),
                tuple(spec.columns),
            )
            for spec in version.signature.inputs
        ),
        task_type=version.metadata.task_type,
        label=fields["label_column"].string_value if "label_column" in fields else "",
        classes=tuple(each.string_value for each in fields["classes"].list_value.values) if "classes" in fields else (),
    )
