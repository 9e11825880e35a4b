"""What the page of the trainer's settings lists must be all there is, with what is built in and what is allowed."""

from __future__ import annotations

from services.trainer.settings import TrainerSettings
from tests.settings_pages import allowed_in, default_of, listed_in


def test_the_page_of_settings_has_each_with_its_default_and_what_is_allowed() -> None:
    known = TrainerSettings.model_json_schema()["properties"]
    wanted = {
        name.upper(): (default_of(schema), allowed_in(schema))
        for name, schema in known.items()
        if name.startswith(("trainer_", "dataset_")) or name == "poll_interval_ms"
    }
    found = listed_in("training-settings.md")
    assert {name: (default, allowed) for name, default, allowed in found} == wanted
    assert len(found) == len(wanted), "each once"
