"""What administration gives, as protos."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.registry.v1 import administration_pb2 as pb
from services.registry.garbage import GarbageBlob, GarbageFate, GarbageReport


def garbage_report(report: GarbageReport) -> pb.CollectGarbageResponse:
    """Write what a round did, or would do."""
    return pb.CollectGarbageResponse(
        dry_run=report.dry_run,
        purged_version_count=report.purged_versions,
        purged_model_count=report.purged_models,
        expired_upload_count=report.expired_uploads,
        condemned_count=report.counts[GarbageFate.CONDEMNED],
        condemned_bytes=report.sizes_bytes[GarbageFate.CONDEMNED],
        deleted_count=report.counts[GarbageFate.DELETED],
        deleted_bytes=report.sizes_bytes[GarbageFate.DELETED],
        waiting_count=report.counts[GarbageFate.WAITING],
        waiting_bytes=report.sizes_bytes[GarbageFate.WAITING],
        blobs=map(_garbage_blob, report.blobs),
    )


def _garbage_blob(blob: GarbageBlob) -> pb.GarbageBlob:
    delete_time = Timestamp()
    delete_time.FromDatetime(blob.delete_time)
    fate = pb.GarbageFate.Value(f"GARBAGE_FATE_{blob.fate}")
    return pb.GarbageBlob(sha256=blob.sha256, size_bytes=blob.size_bytes, fate=fate, delete_time=delete_time)
