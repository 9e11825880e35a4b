"""What the trainer can be told of runs that are trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr

from services.common.settings import HostNames, Settings

HTTP = r"^https?://[^/?#@]+(/[^?#@]*)?$"
DNS_LABEL = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class OutsideSettings(Settings):
    """Settings of outside workers."""

    trainer_worker_address: str = ""
    """Where workers elsewhere reach this service: host:port, with grpcs:// before it for TLS. Without it nothing is
    submitted to Ray or Kubernetes, and no remote worker is called."""
    trainer_worker_silence_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = 120_000
    """How long a worker elsewhere may be silent before its run is given to another; it reports at least six times as
    often, and every five seconds."""
    trainer_worker_wait_ms: Annotated[int, Field(ge=1_000, le=604_800_000)] = 1_800_000
    """How long a run waits for a remote worker to ask for it; it takes one of `trainer_runs` meanwhile."""
    trainer_remote_webhooks: SecretStr | None = None
    """Who is called when a run waits for a remote worker: JSON, receivers by name, of which the first that has all
    labels that the run asks for is called: {"gpu": {"url": "https://…", "secret": "…", "labels": ["gpu"]}}."""
    trainer_remote_webhook_allowed_hosts: HostNames = ""
    """Hosts' names, addresses and networks, separated by commas, that these may reach although they are private; also
    without TLS and on any port."""
    trainer_remote_webhook_ca_file: Path | None = None
    """The certificates that vouch for these, PEM, in place of the system's."""
    trainer_artifact_allowed_hosts: HostNames = ""
    """Hosts' names, addresses and networks, separated by commas, that a finished run's files may be brought from
    although they are private; also without TLS and on any port."""
    trainer_artifact_ca_file: Path | None = None
    """The certificates that vouch for those hosts, PEM, in place of the system's."""

    trainer_ray_address: Annotated[str, Field(pattern=HTTP)] | None = None
    """Where Ray's dashboard answers, for example http://ray-head:8265: runs with the executor `ray` become its jobs."""
    trainer_ray_token: SecretStr | None = None
    """The token that Ray's dashboard asks for, if it does."""
    trainer_ray_entrypoint: str = "python -m services.trainer.worker"
    """What a job of Ray's runs; the checkout, or an image's, is where it begins."""
    trainer_ray_runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray's runtime environment of a job, JSON, for example {"working_dir": "https://…/penstock.zip"}; the variables
    that the worker needs are added."""
    trainer_kubernetes_image: str = ""
    """The image of a Job's worker: with it runs with the executor `kubernetes` become Jobs."""
    trainer_kubernetes_namespace: Annotated[str, Field(pattern=DNS_LABEL)] | None = None
    """Where Jobs are made; by default where this service runs."""
    trainer_kubernetes_address: Annotated[str, Field(pattern=HTTP)] | None = None
    """Where the cluster's API answers; by default that of the cluster in which this service runs."""
    trainer_kubernetes_credentials: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """A folder with `token`, `ca.crt` and `namespace`, as a pod's service account has it; read again with each call."""
    trainer_kubernetes_service_account: str = ""
    """The service account of a Job's pod; by default the namespace's own. It needs no rights, and its token is not
    mounted."""
    trainer_kubernetes_pod: dict[str, Any] = Field(default_factory=dict)
    """More of a Job's pod specification, JSON, for example {"nodeSelector": {"gpu": "a100"}}."""
    trainer_outside_environment: dict[str, str] = Field(default_factory=dict)
    """Variables for workers that are submitted to Ray and Kubernetes, JSON: {"PENSTOCK_CA_FILE": "/ca.pem"}, say."""
