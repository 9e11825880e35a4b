"""JSON logs on standard error: one object a line, with the time, the level, the event and what was bound."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(service: str, level: str) -> None:
    """Send structlog and the standard library's loggers to standard error as JSON lines.

    Args:
        service: stands in each line as `service`.
        level: debug, info, warning or error.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        # The level that counts is the root logger's, which may change while the service runs.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                lambda _logger, _name, event: {"service": service, **event},
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    # psycopg's pool warns about each reconnect by itself; ours says it once, with the reason.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def set_level(level: str) -> None:
    """Leave out lines below a level from now on: debug, info, warning or error."""
    logging.getLogger().setLevel(logging.getLevelNamesMapping()[level.upper()])


def current_level() -> str:
    """Say below which level lines are left out."""
    return logging.getLevelName(logging.getLogger().level).lower()
