"""Outside workers, put together: the service that they speak to, and the executors that follow them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.common.addresses import AddressRules, AllowedHosts
from services.common.errors import FailedPrecondition
from services.common.jobs import Backoff, JobConnection
from services.common.jobs.news import JobNews
from services.common.outbox import Outbox, OutboxCollector, OutboxLimits, OutboxWorkers
from services.common.outbox.webhooks import Webhooks
from services.common.server import Service
from services.trainer.executing.cluster_api import ClusterApi
from services.trainer.executing.kubernetes import KubernetesPlace, ServiceAccount, in_cluster_address
from services.trainer.executing.outside import OutsideExecutor, OutsideParts, Patience, Place
from services.trainer.executing.ray import RayPlace
from services.trainer.executing.remote import RemotePlace
from services.trainer.parts import Parts
from services.trainer.runs.models import ExecutorName
from services.trainer.store import PassingBlobs
from services.trainer.task import Executor
from services.trainer.workers import servicer
from services.trainer.workers.artifact_urls import ArtifactUrls
from services.trainer.workers.callbacks import Callbacks
from services.trainer.workers.calling import Calls, read_receivers
from services.trainer.workers.files import OutsideFiles
from services.trainer.workers.settings import OutsideSettings
from services.trainer.workers.store import OutsideStore

REPORTS_A_SILENCE, MAX_INTERVAL_MS = 6, 5_000
"""A worker reports so often in the time after which it is given up, and so that it hears of a run's end in seconds."""
CALLS_AT_ONCE = OutboxLimits(slots=4, backoff=Backoff(base_s=2.0, cap_s=30.0, max_asked_s=60.0))
"""A run waits for minutes: whoever is to come for it is called again soon, however much time they ask for."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What outside workers bring to the trainer: `ended` is told of a run, in the transaction that ends it."""

    services: Sequence[Service]
    executors: Mapping[ExecutorName, Executor]
    ended: Callable[[JobConnection, UUID], None]


def open_outside(parts: Parts) -> Outside:
    """Open what outside workers need."""
    settings = parts.settings
    store = OutsideStore(parts.database)
    kept = PassingBlobs(parts.database, parts.blobs)
    files = OutsideFiles(parts.database, kept, settings.trainer_max_artifact_bytes)
    rules = AddressRules(
        AllowedHosts.parse(settings.trainer_artifact_allowed_hosts),
        setting="PENSTOCK_TRAINER_ARTIFACT_ALLOWED_HOSTS where the trainer runs",
    )
    news = JobNews(store.listen(poll_interval_s=1.0))
    news.open()
    parts.stack.callback(news.close)
    followed = OutsideParts(
        store=store,
        files=files,
        urls=ArtifactUrls(rules, ca_file=settings.trainer_artifact_ca_file),
        news=news,
        calls=_open_calls(parts, store),
        patience=Patience(settings.trainer_worker_silence_ms / 1000, settings.trainer_worker_wait_ms / 1000),
        environment={
            **settings.trainer_outside_environment,
            "PENSTOCK_TRAINER_ADDRESS": settings.trainer_worker_address,
        },
    )
    executors = {ExecutorName(place.name): OutsideExecutor(place, followed) for place in _places(settings)}
    limits = servicer.TaskLimits(
        report_interval_ms=min(MAX_INTERVAL_MS, settings.trainer_worker_silence_ms // REPORTS_A_SILENCE),
        max_artifact_bytes=settings.trainer_max_artifact_bytes,
    )

    def ended(connection: JobConnection, run_id: UUID) -> None:
        store.end(connection, run_id)
        files.forget(connection, run_id)

    return Outside((servicer.service(Callbacks(store, files, rules), limits),), executors, ended)


def _open_calls(parts: Parts, store: OutsideStore) -> Calls:
    """Build what calls remote workers, and start sending where this process follows runs."""
    settings, said = parts.settings, parts.settings.trainer_remote_webhooks
    receivers = read_receivers(said.get_secret_value() if said else "")
    rules = AddressRules(
        AllowedHosts.parse(settings.trainer_remote_webhook_allowed_hosts),
        setting="PENSTOCK_TRAINER_REMOTE_WEBHOOK_ALLOWED_HOSTS where the trainer runs",
    )
    for receiver in receivers.values():
        rules.endpoint(receiver.url.get_secret_value())
    if receivers and not settings.trainer_worker_address:
        sentence = "say where the workers that are called reach this service: PENSTOCK_TRAINER_WORKER_ADDRESS"
        raise FailedPrecondition(sentence, reason="WORKER_ADDRESS_REQUIRED")
    outbox = Outbox(parts.database, "trainer")
    webhooks = Webhooks(rules, ca_file=settings.trainer_remote_webhook_ca_file)
    calls = Calls(outbox, store, receivers, webhooks, settings.trainer_worker_address)
    if receivers and settings.trainer_worker_enabled:
        workers = OutboxWorkers(outbox, calls.deliver, CALLS_AT_ONCE)
        workers.open()
        parts.stack.callback(workers.close)
        parts.metrics.register(OutboxCollector(outbox, workers))
    return calls


def _places(settings: OutsideSettings) -> list[Place]:
    """Name the places that are configured."""
    places: list[Place] = [RemotePlace()]
    if settings.trainer_ray_address:
        token = settings.trainer_ray_token
        api = ClusterApi(settings.trainer_ray_address, lambda: token.get_secret_value() if token else "")
        places.append(RayPlace(api, settings.trainer_ray_entrypoint, settings.trainer_ray_runtime_env))
    if settings.trainer_kubernetes_image:
        places.append(_kubernetes(settings))
    if any(place.submits for place in places) and not settings.trainer_worker_address:
        sentence = "say where workers reach this service: PENSTOCK_TRAINER_WORKER_ADDRESS, beside the cluster's address"
        raise FailedPrecondition(sentence, reason="WORKER_ADDRESS_REQUIRED")
    return places


def _kubernetes(settings: OutsideSettings) -> KubernetesPlace:
    address = settings.trainer_kubernetes_address or in_cluster_address()
    if not address:
        sentence = "this service runs in no cluster: say where one answers, PENSTOCK_TRAINER_KUBERNETES_ADDRESS"
        raise FailedPrecondition(sentence, reason="KUBERNETES_ADDRESS_REQUIRED")
    account = ServiceAccount(settings.trainer_kubernetes_credentials)
    return KubernetesPlace(
        ClusterApi(address, account.token, account.ca_file),
        settings.trainer_kubernetes_namespace or account.namespace(),
        settings.trainer_kubernetes_image,
        settings.trainer_kubernetes_service_account,
        settings.trainer_kubernetes_pod,
    )
