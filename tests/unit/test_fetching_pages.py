"""What the guide to fetching lists must be all there is: settings with their defaults and bounds, and reasons."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.cli import fetch_advice
from services.fetcher.faults import RETRYABLE
from services.fetcher.settings import FetcherSettings
from tests.settings_pages import allowed_in, default_of, listed_in

DOCS = Path(__file__).resolve().parents[2] / "docs"
REASON = re.compile(r"^\| (`[A-Z0-9_`, ]+`) \| (yes|no) \| .+ \| .+ \|$", re.MULTILINE)
SHARED = ("poll_interval_ms", "secrets_key_file")
"""Settings of the fetcher whose names other services have, too, with a meaning of their own here."""


def test_the_page_of_settings_has_each_with_its_default_and_what_is_allowed() -> None:
    known = FetcherSettings.model_json_schema()["properties"]
    wanted = {
        name.upper(): (default_of(schema), allowed_in(schema))
        for name, schema in known.items()
        if name.startswith("fetcher_") or name in SHARED
    }
    found = listed_in("fetching-settings.md")
    assert {name: (default, allowed) for name, default, allowed in found} == wanted
    assert len(found) == len(wanted), "each once"


def test_the_guide_says_of_every_reason_whether_it_is_tried_again_and_what_to_do() -> None:
    page = (DOCS / "fetching.md").read_text()
    reasons = {
        reason: again == "yes" for said, again in REASON.findall(page) for reason in re.findall(r"[A-Z0-9_]{2,}", said)
    }
    assert set(fetch_advice._BY_REASON) == reasons.keys()
    assert {reason for reason, again in reasons.items() if again} == RETRYABLE & reasons.keys()
