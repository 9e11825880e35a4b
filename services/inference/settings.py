"""What the inference service can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from services.common.settings import MEBIBYTE, Port, ServerSettings, Share
from services.inference.caching.address import check_url as check_cache_url
from services.inference.runtimes.ollama.address import check_url

GIBIBYTE = 1024 * MEBIBYTE


class InferenceSettings(ServerSettings):
    """How models are followed, fetched, loaded and run, and where their events go."""

    port: Port = 8001
    """The gRPC port; 8001 is where Triton's clients look."""
    metrics_port: Port = 8002
    """The Prometheus port; 8002 is where Triton's dashboards look."""
    max_message_bytes: Annotated[int, Field(ge=4096, le=2**31 - 1)] = 64 * MEBIBYTE
    """The largest message taken or sent; tensors travel in one."""
    request_threads: Annotated[int, Field(ge=1, le=1024)] = 64
    """Predictions worked on at once."""
    access_log_share: Share = 0.001
    """The share of successful requests that get a log line. A line for each would halve the rate."""

    inference_workers: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    """Processes that answer on the one port; auto: one for each core that the CPU quota allows. Each takes its share
    of the memory and of the spool. Outside Linux there is one."""
    inference_pinned: Literal["auto", "always", "never"] = "auto"
    """Whether each of several workers keeps to a core of its own, with one thread in a run. auto: where the cores are
    ours alone, which is where no more of them are allowed than the CPU quota grants."""
    max_connection_age_ms: Annotated[int, Field(ge=0, le=2**31 - 1)] = 300_000
    """With several workers: after how long a connection is asked to come again, and may meet another; 0: never."""
    worker_silence_ms: Annotated[int, Field(ge=500, le=600_000)] = 10_000
    """A worker that says nothing for so long is replaced."""

    registry_address: str = "127.0.0.1:50051"
    """Where the registry listens."""
    monitoring_address: str = "127.0.0.1:50053"
    """Where monitoring listens; events wait in the spool while it does not."""
    insecure_token: bool = False
    """Send this service's key in plain text also to other machines, where TLS is not spoken."""
    ca_file: Path | None = None
    """The certificates that vouch for the registry and monitoring, PEM; with them TLS is spoken to both, unless an
    address says grpc://. The files are read again when they change."""
    cert_file: Path | None = None
    """The certificate that this service shows to the others; by default its own as a server, where `ca_file` is set."""
    key_file: Path | None = None
    """The private key of `cert_file`, PEM."""
    cache_dir: Path = Path(".penstock/cache")
    """Where model files and the last snapshot of the registry are kept; all of it can be rebuilt."""
    spool_dir: Path = Path(".penstock/spool")
    """Where events wait for monitoring; keep it on a volume that outlives the process."""

    artifact_cache_bytes: Annotated[int, Field(ge=MEBIBYTE)] = 50 * GIBIBYTE
    """The most disk that model files take."""
    session_budget_bytes: Annotated[int, Field(ge=MEBIBYTE)] = 4 * GIBIBYTE
    """The most memory that loaded ONNX models take, as measured when they are loaded."""
    tensorflow_budget_bytes: Annotated[int, Field(ge=MEBIBYTE)] = 2 * GIBIBYTE
    """The same for TensorFlow models, beside the others; TensorFlow itself, half a GiB once it is used, comes on top.
    What they once took returns to the system only with the process."""
    transformers_budget_bytes: Annotated[int, Field(ge=MEBIBYTE)] = 2 * GIBIBYTE
    """The same for Transformers models, beside the others."""
    max_sessions: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Models loaded at once, for each runtime."""
    load_timeout_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 60_000
    """How long a request without a deadline waits for its model to be loaded."""
    preload: str = ""
    """Models to load at the start, whatever their versions say: names, separated by commas, each with /SELECTOR where
    not the live version is meant."""
    max_in_flight: Annotated[int, Field(ge=1, le=1024)] = 48
    """Requests of one model that hold a thread, waiting or running, where its version says nothing. Neither this nor a
    version's own gives a model more than three quarters of the request threads, so that none takes all."""
    server_name: Annotated[str, Field(min_length=1, max_length=100)] = "penstock"
    """What clients of the Open Inference Protocol read as the server's name; a few insist on `triton`."""
    typed_answers: Literal["asked", "mirrored"] = "asked"
    """Whether clients of the Open Inference Protocol that send typed tensors get typed ones back: where they ask for it
    (`mirror_contents`), or always, for those that read nothing else. tritonclient and perf_analyzer read raw ones."""
    shared_memory: bool = False
    """Let tensors travel through system shared memory, for clients on this machine and of this user; only where the
    service listens on loopback."""
    stream_max_in_flight: Annotated[int, Field(ge=1, le=4096)] = 32
    """Requests of one stream that are taken and not answered; a client that sends more waits."""
    max_batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Rows that run at once at the most, where the version says nothing and its rows are independent; 1: no batches."""
    max_queue_size: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """Requests of one version that wait for their turn, where the version says nothing."""
    runner_threads: Annotated[int, Field(ge=1, le=1024)] = 16
    """Threads that run the batches of streams and jobs, which lend none of their own."""
    runtime_threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of ONNX Runtime, and of TensorFlow, within one run; 0: as many as the CPU quota has cores."""
    execution_providers: str = "cpu"
    """What ONNX Runtime computes on, in order of preference, each with its options in brackets, such as
    cuda(device_id=0),cpu. Its build must have them; the CPU always comes last."""
    memory_arena: bool = True
    """Let ONNX Runtime's sessions keep the memory that they once took, which makes runs faster; they take more."""
    optimised_cache_bytes: Annotated[int, Field(ge=0)] = 10 * GIBIBYTE
    """The most disk that graphs take as ONNX Runtime optimised them, kept for their next load; 0: none is kept."""

    max_batch_tokens: Annotated[int, Field(ge=1, le=2**20)] = 256
    """Tokens, padding included, that a Transformers model runs at once on texts of one request or batch; a longer text
    runs alone. More pays on an accelerator; a CPU's caches hold no more."""

    run_limit_ms: Annotated[int, Field(ge=100, le=3_600_000)] = 60_000
    """A model's run that takes longer is ended, and its caller hears MODEL_FAILED."""

    ollama_url: Annotated[str, AfterValidator(check_url)] = "http://127.0.0.1:11434"
    """Where the Ollama server is that runs the models that versions refer to. Errors name it: it holds no key."""
    ollama_token_file: Path | None = None
    """A file that holds a key for that server, or a proxy before it, sent as a bearer token; read at each call."""
    ollama_parallel: Annotated[int, Field(ge=1, le=256)] = 4
    """Calls to it at once, for all predictions of one model together, a call a row; streams are not counted."""
    ollama_connect_timeout_ms: Annotated[int, Field(ge=10, le=600_000)] = 5_000
    """How long it may take to accept a connection."""
    ollama_stall_timeout_ms: Annotated[int, Field(ge=10, le=3_600_000)] = 120_000
    """How long it may be silent: while it loads a model, before the first byte, and between two."""
    ollama_timeout_ms: Annotated[int, Field(ge=10, le=86_400_000)] = 600_000
    """How long one generation may take. Predictions that are not streamed are held to `run_limit_ms` as well."""

    response_cache_ttl_ms: Annotated[int, Field(ge=1, le=30 * 86_400_000)] = 300_000
    """How long an answer is kept, where the version keeps answers and does not say how long."""
    response_cache_bytes: Annotated[int, Field(ge=0)] = 256 * MEBIBYTE
    """The most memory that kept answers take, of all workers together; the least recently used go first."""
    response_cache_max_answer_bytes: Annotated[int, Field(ge=1, le=2**31 - 1)] = MEBIBYTE
    """A larger answer is not kept, where the version does not say how large it may be."""
    response_cache_url: Annotated[SecretStr, AfterValidator(check_cache_url)] = SecretStr("")
    """A Redis or Valkey that keeps the answers of all processes: redis://, rediss:// or unix://, with its password.
    Where it does not answer, requests go to the models. Empty: each process keeps its own in memory."""
    response_cache_timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 20
    """How long a request waits for that server before it goes to the model."""

    feature_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 500
    """How long a prediction waits for the values of its entities, which the registry gives; then it is refused."""
    max_feature_lookups: Annotated[int, Field(ge=1, le=4096)] = 32
    """Such waits at once, so that a registry which hangs holds so many request threads at the most."""

    capture: bool = True
    """Keep events. The version's capture policy says what they hold."""
    spool_max_bytes: Annotated[int, Field(ge=MEBIBYTE)] = GIBIBYTE
    """The most disk that waiting events take."""
    spool_queue_events: Annotated[int, Field(ge=1, le=10_000_000)] = 50_000
    """The most events that wait in memory for the disk: when the spool holds all it may, or the disk is full."""
    spool_when_full: Literal["drop", "block"] = "drop"
    """What happens when both bounds are reached: the event is dropped and counted, or its prediction waits."""
    spool_fsync: Literal["never", "interval", "always"] = "interval"
    """When the spool is forced to disk: a killed process loses nothing that was written either way; a power cut
    loses what was not forced (interval: at most the last second)."""
