"""What the fetcher can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import NoDecode

from services.common.addresses import ALLOWED_PORTS, OnlyHosts
from services.common.postgres import PostgresSettings
from services.common.settings import AT_COMMAS, MEBIBYTE, HostNames, Port, ServerSettings

GIBIBYTE = 1024 * MEBIBYTE
HOUR_MS = 3_600_000


def _checked_only_hosts(text: str) -> str:
    OnlyHosts.parse(text)
    return text


Root = Annotated[str, Field(pattern=r"^file:///")]
Bucket = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/]+)*/?$")]


class FetcherSettings(ServerSettings, PostgresSettings):
    """The settings of one fetcher process."""

    port: Port = 50054
    """The gRPC port; 0 takes a free one, which the log names."""
    metrics_port: Port = 9104
    """The Prometheus port; 0 takes a free one, which the log names."""

    blob_url: str
    """Where downloads are kept until they are registered: file:///absolute/folder or
    s3://bucket?endpoint=http://host:port&region=…"""
    blob_access_key: SecretStr | None = None
    """The access key of S3."""
    blob_secret_key: SecretStr | None = None
    """The secret key of S3."""
    blob_grace_ms: Annotated[int, Field(ge=60_000, le=2_592_000_000)] = 86_400_000
    """How long a blob that nothing names is left alone, once before it is condemned and once before it is deleted."""

    registry_address: str = "127.0.0.1:50051"
    """Where the registry listens."""
    insecure_token: bool = False
    """Send this service's key in plain text also to other machines, where TLS is not spoken."""
    ca_file: Path | None = None
    """The certificates that vouch for the registry, PEM; with them TLS is spoken to it, unless its address says
    grpc://. The files are read again when they change."""
    cert_file: Path | None = None
    """The certificate that this service shows to the registry; by default its own as a server, where `ca_file` is
    set."""
    key_file: Path | None = None
    """The private key of `cert_file`, PEM."""

    fetcher_worker_enabled: bool = True
    """Whether this process fetches; false takes requests only, and leaves the work to other replicas."""
    fetcher_jobs: Annotated[int, Field(ge=1, le=64)] = 3
    """Fetches worked on at once in this process."""
    fetcher_max_running: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Fetches worked on at once over all replicas; by default as many as they have workers."""
    fetcher_max_running_per_host: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Of them, fetches from one host."""
    fetcher_lease_ms: Annotated[int, Field(ge=1_000, le=600_000)] = 30_000
    """How long after a worker's death another takes its fetch over."""
    poll_interval_ms: Annotated[int, Field(ge=50, le=60_000)] = 5_000
    """How often fetches are looked for and leases looked after, should a notification be lost; also how late at most a
    fetch begins whose time has come."""
    fetcher_backoff_ms: Annotated[int, Field(ge=1, le=HOUR_MS)] = 5_000
    """The longest wait before the second attempt; it doubles with each further one, and is drawn from 0 to that."""
    fetcher_hard_limit_ms: Annotated[int, Field(ge=1_000, le=30 * 24 * HOUR_MS)] = 24 * HOUR_MS
    """The longest that any fetch may take, from its first attempt on."""
    fetcher_max_unended: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """Fetches of one key that have not ended; more are refused with RESOURCE_EXHAUSTED."""
    fetcher_max_schedules: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Schedules of one key; more are refused with RESOURCE_EXHAUSTED."""
    fetcher_retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    """How long ended fetches are kept."""
    fetcher_download_retention_hours: Annotated[int, Field(ge=1, le=24 * 365)] = 24
    """How long bytes that were downloaded are kept after they were last used, for retries and for who fetches the
    same."""
    fetcher_housekeeping_interval_ms: Annotated[int, Field(ge=100, le=HOUR_MS)] = 60_000
    """How often old fetches and downloads are looked for."""

    fetcher_roots: Annotated[frozenset[Root], NoDecode, AT_COMMAS] = frozenset()
    """Folders that the source `filesystem` may read, as file:///absolute/folder, separated by commas. Whoever is an
    operator may read all that lies there."""
    fetcher_allowed_hosts: HostNames = ""
    """Hosts' names, addresses and networks, separated by commas, that may be fetched from although they are private;
    also without TLS and on any port."""
    fetcher_only_hosts: Annotated[str, AfterValidator(_checked_only_hosts)] = ""
    """The only hosts that are fetched from, beside those that are allowed above: names, *.example.org for all below a
    name, addresses and networks, separated by commas; by default any that is public. Where a host redirects to others,
    name these, too."""
    fetcher_schemes: Annotated[frozenset[Literal["https", "http"]], NoDecode, AT_COMMAS] = frozenset({"https"})
    """Schemes of URLs, separated by commas. With http what comes can be read and changed on the way."""
    fetcher_allowed_ports: Annotated[frozenset[Annotated[int, Field(ge=1, le=65_535)]], NoDecode, AT_COMMAS] = (
        ALLOWED_PORTS
    )
    """Ports that are fetched from, separated by commas."""
    fetcher_ca_file: Path | None = None
    """The certificates that vouch for sources, PEM, in place of the system's."""
    fetcher_hf_endpoint: Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+(/[^?#@\s]*)?$")] = "https://huggingface.co"
    """Where the source `huggingface` is, a mirror for example; one at a private address has to be among
    `fetcher_allowed_hosts`."""
    fetcher_hf_token: SecretStr | None = None
    """The access token that private and gated repositories are read with; sent to the endpoint alone. Whoever is an
    operator may fetch all that it opens."""
    fetcher_s3_endpoint: Annotated[str, Field(pattern=r"^https?://[^/?#@]+$")] = "https://s3.amazonaws.com"
    """Where the source `s3` is: https://host or http://host:port. It may be private, since it is named here."""
    fetcher_s3_region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = "us-east-1"
    """The region of its buckets."""
    fetcher_s3_access_key: SecretStr | None = None
    """The access key that buckets are read with; without one they are asked for as by anybody."""
    fetcher_s3_secret_key: SecretStr | None = None
    """The secret key that belongs to it."""
    fetcher_s3_buckets: Annotated[frozenset[Bucket], NoDecode, AT_COMMAS] = frozenset()
    """Buckets that the source `s3` may read, each as bucket or bucket/folder, separated by commas. Whoever is an
    operator may read all that lies there and that the key above opens; name none that services keep their blobs in."""
    fetcher_oci_auth_file: Path | None = None
    """The credentials for OCI registries, as docker login writes them: {"auths": {"registry.example": {"auth": …}}}, a
    user and password in base64. `realm_hosts`, a list beside `auth`, names others (host, or host:port) that may be told
    them, to give a token; of Docker Hub auth.docker.io is known. The file is read each time."""
    fetcher_oci_plain_hosts: Annotated[frozenset[str], NoDecode, AT_COMMAS] = frozenset()
    """OCI registries that are spoken to without TLS, as references write them (host:port), separated by commas; they
    must be among `fetcher_allowed_hosts`."""
    secrets_key_file: Path | None = None
    """What the webhooks of fetches are encrypted with: a file of keys, each 32 random bytes in base64 on a line of its
    own (`openssl rand -base64 32`). The first encrypts, all of them decrypt. Without it webhooks with a secret or a
    path are refused. All replicas need the same."""
    fetcher_webhook_allowed_hosts: HostNames = ""
    """Hosts' names, addresses and networks, separated by commas, that webhooks may reach although they are private;
    also without TLS and on any port."""
    fetcher_webhook_only_hosts: Annotated[str, AfterValidator(_checked_only_hosts)] = ""
    """The only hosts that webhooks reach, beside those that are allowed above, written as `fetcher_only_hosts` is,
    which is of sources alone; by default any that is public."""
    fetcher_webhook_ca_file: Path | None = None
    """The certificates that vouch for the receivers of webhooks, PEM, in place of the system's."""
    fetcher_webhook_senders: Annotated[int, Field(ge=2, le=64)] = 4
    """Webhooks' messages on their way at once, each to another host; hosts of which one waits for another try share
    one half, so that a receiver that is down holds up no other."""
    fetcher_webhook_interval_ms: Annotated[int, Field(ge=10, le=60_000)] = 1_000
    """How often it is looked for messages whose next attempt has come due; new ones are sent at once."""
    fetcher_max_file_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 5 * GIBIBYTE
    """The largest file that is fetched."""
    fetcher_max_bytes: Annotated[int, Field(ge=1, le=1024**4)] = 50 * GIBIBYTE
    """The largest model: all its files together."""
    fetcher_connections: Annotated[int, Field(ge=1, le=32)] = 4
    """Connections of one fetch at once, over all its files; each further attempt uses half as many. A fetch holds two
    parts more than these in memory, of 8 MiB each, or 5 where they go into S3."""
    fetcher_reserve_bytes: Annotated[int, Field(ge=0, le=1024**4)] = 256 * MEBIBYTE
    """What stays free of the disk where downloads are kept in a folder: a fetch that would use it up is not begun."""
    fetcher_host_requests_per_second: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Requests to one host, of all replicas together. One that asks for patience (Retry-After) is left alone so long
    by all of them, an hour at most."""
    fetcher_host_burst: Annotated[int, Field(ge=1, le=100_000)] = 200
    """Requests to one host at once, after a while of fewer."""
    fetcher_host_bytes_per_second: Annotated[int, Field(ge=64 * 1024, le=1024**4)] | None = None
    """Bytes from one host, of all replicas together; by default as many as it gives."""
    fetcher_connect_timeout_ms: Annotated[int, Field(ge=10, le=600_000)] = 10_000
    """How long a connection to a source may take."""
    fetcher_silence_timeout_ms: Annotated[int, Field(ge=10, le=600_000)] = 30_000
    """How long a source may send nothing."""
    fetcher_floor_bytes_per_s: Annotated[int, Field(ge=0, le=1024**3)] = 1_024
    """A transfer that is slower than this for `fetcher_silence_timeout_ms` is ended, and tried again."""
