"""Lineage: what led to a prediction, an alert or a version, and what came of it."""

from __future__ import annotations

from penstock.api.monitoring.v1 import lineage_pb2 as pb
from penstock.monitoring_connection import MonitoringConnected


class LineageClient(MonitoringConnected):
    """Gives graphs: nodes, of which the first is what was asked for, and edges from causes to effects.

    A node that is known of, and could not be looked up, says why in `missing`.
    """

    def of_inference(self, inference_id: str) -> pb.GetLineageResponse:
        """From a prediction to its version, that one's training run and dataset; raises NotFound."""
        return self._get(pb.GetLineageRequest(inference_id=inference_id))

    def of_alert(self, alert_id: str) -> pb.GetLineageResponse:
        """From an alert to the version that answered it, by way of check, retraining request and run."""
        return self._get(pb.GetLineageRequest(alert_id=alert_id))

    def of_retraining_request(self, retraining_request_id: str) -> pb.GetLineageResponse:
        """From a retraining request to what raised it, and to what came of it; raises NotFound."""
        return self._get(pb.GetLineageRequest(retraining_request_id=retraining_request_id))

    def of_version(self, model: str, version: str) -> pb.GetLineageResponse:
        """From a version to all that it hangs together with; raises NotFound."""
        return self._get(pb.GetLineageRequest(version=f"{model}/{version}"))

    def of_check(self, check_id: str) -> pb.GetLineageResponse:
        """From a drift check or a quality check to what it compared, and to what came of it; raises NotFound."""
        return self._get(pb.GetLineageRequest(check_id=check_id))

    def of_training_run(self, training_run_id: str) -> pb.GetLineageResponse:
        """From a run of the trainer to what led to it, and to the version that it made; raises NotFound."""
        return self._get(pb.GetLineageRequest(training_run_id=training_run_id))

    def _get(self, request: pb.GetLineageRequest) -> pb.GetLineageResponse:
        return self._connection.unary(self._connection.stub.GetLineage, request)
