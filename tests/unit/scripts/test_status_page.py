"""The page about GET /status says what the fields of its types say."""

from __future__ import annotations

import pytest

from backend.web.status_model import JobStatus, Status
from scripts.status_page import PAGE, fields_of, objects_below, with_tables


def test_the_page_is_what_the_command_writes() -> None:
    page = PAGE.read_text()
    assert with_tables(page) == page, "run `make status-page`"


def test_every_field_of_every_object_has_a_description() -> None:
    objects = {Status, *(object_type for _, object_type in objects_below(Status))}
    bare = [(o.__name__, f.name) for o in objects for f in fields_of(o) if not f.description]
    assert not bare


def test_tables_are_written_anew_and_the_prose_around_them_stays() -> None:
    page = PAGE.read_text()
    before, _, after = page.partition("## `jobs`")
    own = "## `jobs`\n\nOur own words.\n\n| field | tells |\n|---|---|\n| `old` | is gone |\n\n"
    written = with_tables(before + own + "## " + after.partition("\n## ")[2])
    section = written.partition("## `jobs`")[2].partition("\n## ")[0]
    assert "Our own words.\n\n| field | tells |\n|---|---|\n| `job` | `retrain`;" in section
    assert "is gone" not in section
    assert section.count("\n| `") == len(JobStatus.model_fields)


def test_an_object_that_the_page_has_no_section_for_is_named() -> None:
    page = PAGE.read_text().replace("## `confusion`", "## Confusion")
    with pytest.raises(LookupError, match="no heading ## `confusion`"):
        with_tables(page)


def test_what_is_not_told_has_no_row() -> None:
    page = PAGE.read_text()
    assert "`picture`" not in page
    curve = page.partition("## `learning_curve`")[2].partition("\n## ")[0]
    assert "`images`" not in curve
