"""The part of the feature store's client that has the service read files and queries itself."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.api.features.v1 import features_pb2 as pb
from penstock.channels import Connection
from penstock.feature_columns import versioned
from penstock.stubs import RegistryStub
from penstock.values import enum_number


@dataclass(frozen=True, slots=True)
class SourceColumns:
    """Which columns of a file or a query are what; each other one is the feature's of its name.

    Attributes:
        key: the entities; default: the one that is named as the view's entity.
        event_time: when each became true; default: event_time, where there is one, else the time of the import.
        create_time: when each was known elsewhere; default: they are known from now on.
        ignored: to be left out.
    """

    key: str = ""
    event_time: str = ""
    create_time: str = ""
    ignored: Sequence[str] = ()


class FeatureImporting:
    """Imports what the service reads itself."""

    _connection: Connection[RegistryStub]

    def import_file(
        self,
        view: str,
        uri: str,
        *,
        file_format: str | None = None,
        columns: SourceColumns = SourceColumns(),
    ) -> Generator[pb.ImportFeatureSourceResponse, None, None]:
        """Have the service write the rows of a file that it reads itself; gives how far it is, at last with `done`.

        To end it, close the iterator. It can be asked for again: no row that has an event time is written twice.

        Args:
            view: the view; `name@2` is version 2, else the newest.
            uri: file:///folder/rows.parquet or s3://bucket/rows.csv, where the service's settings allow it.
            file_format: csv or parquet; None: by the suffix.
            columns: which of them are what.

        Raises:
            InvalidArgument: the file lies elsewhere (URI_NOT_ALLOWED), or is not of the view's columns.
            NotFound: there is none (INPUT_NOT_FOUND).
        """
        number = pb.FEATURE_FILE_FORMAT_UNSPECIFIED
        if file_format is not None:
            number = enum_number("format", pb.FeatureFileFormat, file_format)
        return self._import(view, columns, file=pb.FeatureFile(uri=uri, format=number))

    def import_query(
        self,
        view: str,
        connection: str,
        sql: str,
        *,
        columns: SourceColumns = SourceColumns(),
    ) -> Generator[pb.ImportFeatureSourceResponse, None, None]:
        """Have the service write the rows of a query of another PostgreSQL, as `import_file`.

        `connection` is its name in the service's settings, `sql` one SELECT.
        """
        return self._import(view, columns, query=pb.FeatureQuery(connection=connection, sql=sql))

    def import_bigquery(
        self,
        view: str,
        project: str,
        sql: str,
        *,
        columns: SourceColumns = SourceColumns(),
    ) -> Generator[pb.ImportFeatureSourceResponse, None, None]:
        """Have the service write the rows of a query of BigQuery, as `import_file`.

        `project` runs the query and pays for it, `sql` is one SELECT in GoogleSQL. An array that is empty is missing.

        Raises:
            FailedPrecondition: the service's settings do not allow a project (PROJECT_NOT_ALLOWED), or it lacks the
                client (BIGQUERY_NOT_INSTALLED).
            InvalidArgument: the query fails (QUERY_FAILED), or would cost more than it may (TOO_LARGE).
        """
        return self._import(view, columns, big_query=pb.FeatureBigQuery(project=project, sql=sql))

    def _import(
        self, view: str, columns: SourceColumns, **source: Any
    ) -> Generator[pb.ImportFeatureSourceResponse, None, None]:
        name, version = versioned(view)
        request = pb.ImportFeatureSourceRequest(
            view=name,
            version=version,
            key_column=columns.key,
            event_time_column=columns.event_time,
            create_time_column=columns.create_time,
            ignored_columns=columns.ignored,
            **source,
        )
        return self._connection.stream(self._connection.stub.ImportFeatureSource, request, timeout_s=None)
