"""What the monitoring service can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import NoDecode

from services.common.postgres import PostgresSettings
from services.common.settings import AT_COMMAS, HostNames, Port, ServerSettings
from services.monitoring.notifications.apprise_urls import DEFAULT_SCHEMES, read_schemes


def _checked_schemes(text: str) -> str:
    read_schemes(text)
    return text


Root = Annotated[str, Field(pattern=r"^(file:///|s3://[^/]+)")]


class MonitoringSettings(ServerSettings, PostgresSettings):
    """The settings of one monitoring process."""

    port: Port = 50053
    """The gRPC port; 0 takes a free one, which the log names."""
    metrics_port: Port = 9103
    """The Prometheus port; 0 takes a free one, which the log names."""
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long events and their feedback are kept. Older events are refused, and older days dropped."""
    retention_interval_ms: Annotated[int, Field(ge=50, le=3_600_000)] = 60_000
    """How often coming days are made ready and old ones dropped."""
    quarantine_max_events: Annotated[int, Field(ge=0, le=1_000_000)] = 10_000
    """How many refused events are kept to look at; the oldest go first."""
    metrics_max_versions: Annotated[int, Field(ge=0, le=10_000)] = 100
    """How many versions of models Prometheus is told of, those with the most traffic of the last day."""
    rollup_interval_ms: Annotated[int, Field(ge=50, le=3_600_000)] = 10_000
    """How often buckets of 5 minutes that are over, and in which something was stored, are rolled up."""

    drift_interval_ms: Annotated[int, Field(ge=50, le=3_600_000)] = 30_000
    """How often it is looked for versions whose time for a drift check has come."""
    quality_interval_ms: Annotated[int, Field(ge=50, le=3_600_000)] = 15_000
    """How often it is looked for versions whose time for a quality check has come."""

    registry_address: str = "127.0.0.1:50051"
    """Where the registry listens; GetLineage asks it where a version came from."""
    trainer_address: str = ""
    """Where the trainer listens. Empty: there is none, and approved retraining requests wait."""
    insecure_token: bool = False
    """Send this service's key in plain text also to other machines, where TLS is not spoken."""
    ca_file: Path | None = None
    """The certificates that vouch for the registry and the trainer, PEM; with them TLS is spoken to both, unless an
    address says grpc://. The files are read again when they change."""
    cert_file: Path | None = None
    """The certificate that this service shows to the others; by default its own as a server, where `ca_file` is set."""
    key_file: Path | None = None
    """The private key of `cert_file`, PEM."""
    retraining_interval_ms: Annotated[int, Field(ge=50, le=3_600_000)] = 10_000
    """How often retraining requests are looked after: what raises them, those that expire, and the trainer's runs."""

    alert_interval_ms: Annotated[int, Field(ge=50, le=3_600_000)] = 15_000
    """How often alert rules are judged."""
    alert_retention_days: Annotated[int, Field(ge=1, le=3650)] = 365
    """How long alerts that were resolved are kept with their history, and silences that are over."""

    secrets_key_file: Path | None = None
    """What the secrets of channels are encrypted with: a file of keys, each 32 random bytes in base64 on a line of its
    own (`openssl rand -base64 32`). The first encrypts, all of them decrypt. Without it channels with secrets are
    refused. All replicas need the same."""
    notification_allowed_hosts: HostNames = ""
    """Hosts' names, addresses and networks, separated by commas, that notifications may reach although they are
    private; webhooks also without TLS and on any port."""
    notification_ca_file: Path | None = None
    """The certificates that vouch for the receivers of webhooks, PEM, in place of the system's."""
    notification_senders: Annotated[int, Field(ge=2, le=64)] = 8
    """Messages on their way at once, each to another channel; those of which one waits for another try share one half,
    so that 2 is the least. One that goes by apprise is a process of some 60 MiB meanwhile."""
    notification_interval_ms: Annotated[int, Field(ge=10, le=60_000)] = 1_000
    """How often it is looked for messages whose next attempt has come due; new ones are sent at once."""
    apprise_schemes: Annotated[str, AfterValidator(_checked_schemes)] = DEFAULT_SCHEMES
    """Kinds of apprise's URLs that channels may have, separated by commas. None that tells the server's own machine."""

    blob_url: str = ""
    """Where the files lie that profiles are made of by URI: s3://bucket?endpoint=http://host:port&region=… names their
    S3 server. Files in folders need none."""
    blob_access_key: SecretStr | None = None
    """The access key of S3."""
    blob_secret_key: SecretStr | None = None
    """The secret key of S3."""
    profile_input_roots: Annotated[frozenset[Root], NoDecode, AT_COMMAS] = frozenset()
    """Where files may lie that profiles are made of by URI: folders (file:///data/in) and buckets with a prefix
    (s3://bucket/in) of the blob store's own server, separated by commas. Operators may read what lies there, if they
    know its digest."""
    profile_max_input_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 1024**3
    """The largest file that a profile is made of."""
    profile_require_sandbox: bool = False
    """Refuse Parquet where the kernel gives no seccomp: its reader would be a process like any other."""
    profile_dir: Path | None = None
    """Where such a file is copied to while it is read; by default the system's folder for temporary files."""
    profile_retention_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """How long live data is kept as it was counted against profiles."""
    profile_interval_ms: Annotated[int, Field(ge=50, le=3_600_000)] = 5_000
    """How often buckets of live data that have changed are counted against their profiles."""
    profile_open_interval_ms: Annotated[int, Field(ge=0, le=3_600_000)] = 60_000
    """A bucket that is still open is counted at most so often."""
