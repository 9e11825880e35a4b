"""Between the contract's messages and our dataclasses. Requests are checked here."""

from __future__ import annotations

from penstock.api.monitoring.v1 import lineage_pb2 as pb
from penstock.values import to_timestamp
from services.common.errors import InvalidArgument
from services.monitoring.checks import MAX_CHARS
from services.monitoring.ids import find_id
from services.monitoring.lineage.graph import Graph
from services.monitoring.lineage.models import Kind, Node, Subject, Thing, VersionName

_KINDS = {
    "inference_id": Kind.INFERENCE,
    "alert_id": Kind.ALERT,
    "retraining_request_id": Kind.RETRAINING_REQUEST,
    "check_id": Kind.CHECK,
    "training_run_id": Kind.TRAINING_RUN,
}
_EXAMPLE = "019a3f5e-7c00-7abc-8def-0123456789ab"


def subject_from(request: pb.GetLineageRequest) -> Subject:
    """Read where to begin.

    Raises:
        InvalidArgument: nothing was named (SUBJECT_REQUIRED), or something that is no id (INVALID_ID).
    """
    field = request.WhichOneof("subject")
    if field is None or not getattr(request, field):
        raise InvalidArgument.field(
            field or "subject",
            f"nothing is named; give a version, or one of {', '.join(_KINDS)}",
            reason="SUBJECT_REQUIRED",
        )
    if field == "version":
        return _version(request.version)
    text: str = getattr(request, field)
    found = find_id(text)
    if found is None:
        raise InvalidArgument.field(field, f"{text[:64]!r} is not a UUIDv7 like {_EXAMPLE}", reason="INVALID_ID")
    return Thing(_KINDS[field], found)


def _version(text: str) -> VersionName:
    model, _, version = text.partition("/")
    fits = len(model) <= MAX_CHARS["model"] and len(version) <= MAX_CHARS["version"] and "\0" not in text
    if not model or not version or not fits:
        raise InvalidArgument.field(
            "version", f"{text[:64]!r} is no MODEL/VERSION; write for example iris/1.0.0", reason="INVALID_ID"
        )
    return VersionName(model, version)


def response(graph: Graph) -> pb.GetLineageResponse:
    """Encode a lineage."""
    return pb.GetLineageResponse(
        nodes=map(_node_proto, graph.nodes),
        edges=[
            pb.LineageEdge(from_node=edge.cause, to_node=edge.effect, relation=edge.relation) for edge in graph.edges
        ],
    )


def _node_proto(node: Node) -> pb.LineageNode:
    return pb.LineageNode(
        kind=pb.LineageKind.ValueType(node.kind.value),
        id=node.id,
        title=node.title,
        time=to_timestamp("time", node.time),
        attributes=node.attributes,
        missing=node.missing,
    )
