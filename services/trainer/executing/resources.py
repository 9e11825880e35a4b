"""What a run asks of where it is trained: the parameter `resources` of its training config."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Resources(BaseModel):
    """What a worker elsewhere is to have."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    cpus: Annotated[float, Field(gt=0, le=1024)] = 1.0
    """Processors."""
    gpus: Annotated[float, Field(ge=0, le=64)] = 0.0
    """Accelerators; of Kubernetes whole ones, rounded up."""
    memory_bytes: Annotated[int, Field(ge=0, le=2**50)] = 0
    """Memory that a cluster sets aside; 0: of Ray none, of Kubernetes the run's own limit and half a GiB."""
    labels: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=32)] = ()
    """What a remote worker must have said that it has, for example `gpu`."""

    @classmethod
    def of(cls, said: object) -> Self:
        """Read them; raises ValueError, with a sentence."""
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, ("resources", *first["loc"])))
            raise ValueError(f"{where}: {first['msg']}") from None
