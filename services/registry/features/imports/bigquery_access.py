"""Which projects of BigQuery may be read, and with what: only the operator of the service says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.common.errors import FailedPrecondition
from services.registry.features.imports.models import BigQuerySource, Reading


@dataclass(frozen=True, slots=True)
class BigQueryAccess:
    """What the settings say of BigQuery. Without `projects` nothing is read.

    `credentials_file` is the key of a service account; without one they are where Google's clients look for them.
    `endpoint` is the API's address, where it is not Google's; one that is http:// gets no credentials.
    """

    projects: frozenset[str]
    credentials_file: Path | None
    endpoint: str | None
    max_bytes_billed: int

    def reading(self, source: BigQuerySource, *, timeout_ms: int) -> Reading:
        """Give what reads a query's rows.

        Raises:
            FailedPrecondition: its project may not be read (PROJECT_NOT_ALLOWED), or Google's client is not installed
                (BIGQUERY_NOT_INSTALLED).
        """
        self.check_project(source.project)
        try:  # it takes a second and 20 packages, which who has no BigQuery shall be spared
            from services.registry.features.imports.bigquery_reading import BigQueryReading
        except ModuleNotFoundError as error:
            sentence = (
                f"the registry has no client of BigQuery ({error.name} is missing); its operator installs the extra "
                "penstock[bigquery], or runs the image registry-bigquery"
            )
            raise FailedPrecondition(sentence, reason="BIGQUERY_NOT_INSTALLED") from error
        return BigQueryReading(source, self, timeout_ms=timeout_ms)

    def check_project(self, project: str) -> None:
        """Let a project pass that may be read; raises FailedPrecondition (PROJECT_NOT_ALLOWED)."""
        if project in self.projects:
            return
        if not self.projects:
            sentence = (
                "no project of BigQuery may be read; an operator names them in PENSTOCK_FEATURE_BIGQUERY_PROJECTS"
            )
        else:
            names = ", ".join(sorted(self.projects)[:50])
            sentence = f"PENSTOCK_FEATURE_BIGQUERY_PROJECTS does not allow {project[:80]!r}; it allows {names}"
        raise FailedPrecondition(sentence, reason="PROJECT_NOT_ALLOWED")
