"""docs/status.md describes the fields of GET /status as their types do."""

from __future__ import annotations

import pytest

from backend.web.status_model import JobStatus
from scripts.status_page import PAGE, MissingSectionError, status_objects, with_tables


def test_the_page_is_what_the_command_writes() -> None:
    page = PAGE.read_text()
    assert with_tables(page) == page, "run `make status-page`"


def test_every_field_of_every_object_has_a_description() -> None:
    bare = [
        (name, field)
        for name, schema in status_objects().items()
        for field, about in schema["properties"].items()
        if not about.get("description")
    ]
    assert not bare


def test_tables_are_rewritten_and_the_text_around_them_stays() -> None:
    page = PAGE.read_text()
    before, _, after = page.partition("## `jobs`")
    own = "## `jobs`\n\nOur own words.\n\n| field | tells |\n|---|---|\n| `old` | is gone |\n\n"
    written = with_tables(before + own + "## " + after.partition("\n## ")[2])
    section = written.partition("## `jobs`")[2].partition("\n## ")[0]
    assert "Our own words.\n\n| field | tells |\n|---|---|\n| `job` | `retrain`;" in section
    assert "is gone" not in section
    assert section.count("\n| `") == len(JobStatus.model_fields)


def test_an_object_without_a_section_is_named() -> None:
    page = PAGE.read_text().replace("## `confusion`", "## Confusion")
    with pytest.raises(MissingSectionError, match="no heading ## `confusion`"):
        with_tables(page)


def test_a_field_that_is_not_in_the_json_has_no_row() -> None:
    page = PAGE.read_text()
    assert "`picture`" not in page
    curve = page.partition("## `learning_curve`")[2].partition("\n## ")[0]
    assert "`images`" not in curve
