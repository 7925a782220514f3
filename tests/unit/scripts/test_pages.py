"""Check that the generated pages match the code."""

from __future__ import annotations

import re

import pytest

from backend.base.command_line import ROOT
from backend.web.status_model import JobStatus
from scripts.pages import (
    SETTING_ROW,
    SETTINGS_PAGE,
    STATUS_PAGE,
    IncompletePageError,
    settings_by_variable,
    status_objects,
    with_setting_rows,
    with_status_tables,
)


def test_the_pages_are_what_the_command_writes() -> None:
    status, settings = STATUS_PAGE.read_text(), SETTINGS_PAGE.read_text()
    assert with_status_tables(status) == status, "run `make pages`"
    assert with_setting_rows(settings) == settings, "run `make pages`"


def test_every_field_of_every_object_has_a_description() -> None:
    bare = [
        (name, field)
        for name, schema in status_objects().items()
        for field, about in schema["properties"].items()
        if not about.get("description")
    ]
    assert not bare


def test_status_tables_are_rewritten_and_the_prose_around_them_is_kept() -> None:
    page = STATUS_PAGE.read_text()
    before, _, after = page.partition("## `jobs`")
    own = "## `jobs`\n\nOur own words.\n\n| field | meaning |\n|---|---|\n| `old` | is gone |\n\n"
    written = with_status_tables(before + own + "## " + after.partition("\n## ")[2])
    section = written.partition("## `jobs`")[2].partition("\n## ")[0]
    assert "Our own words.\n\n| field | meaning |\n|---|---|\n| `job` | `retrain`, " in section
    assert "is gone" not in section
    assert section.count("\n| `") == len(JobStatus.model_fields)


def test_an_object_without_a_section_is_named() -> None:
    page = STATUS_PAGE.read_text().replace("## `confusion`", "## Confusion")
    with pytest.raises(IncompletePageError, match="no heading ## `confusion`"):
        with_status_tables(page)


def test_excluded_fields_have_no_row() -> None:
    page = STATUS_PAGE.read_text()
    assert "`picture`" not in page
    curve = page.partition("## `learning_curve`")[2].partition("\n## ")[0]
    assert "`images`" not in curve


def test_every_setting_has_a_description() -> None:
    assert not [v for v, about in settings_by_variable().items() if not about.get("description")]


def test_a_setting_without_a_row_is_named() -> None:
    page = SETTINGS_PAGE.read_text().replace("| `BLIND` |", "| `BLND` |")
    with pytest.raises(IncompletePageError, match=r"no row \| `BLIND` \|"):
        with_setting_rows(page)


def test_setting_rows_are_rewritten_and_rows_of_other_variables_are_kept() -> None:
    page = SETTINGS_PAGE.read_text()
    old = SETTING_ROW.sub(lambda r: f"| `{r[1]}` | old |" if r[1] == "SEED" else r[0], page)
    assert old != page
    assert with_setting_rows(old + "| `BIND` | our words |\n") == page + "| `BIND` | our words |\n"


def test_a_row_gives_default_allowed_values_and_meaning() -> None:
    page = SETTINGS_PAGE.read_text()
    assert "| `IMAGE_SIZE` | `auto` | 16 to 512, a multiple of 8 | The side" in page
    assert "| `PROJECT_TITLE` | `Tightloop` | 3 to 50 characters | The title" in page
    assert "| `RECONCILE_EVERY` | `60` | more than 0 | Seconds" in page
    assert "| `ADAPT` | `auto` | more than 0, up to 1,440 | Whether" in page
    assert "| `BLIND` | `false` | `true`, `false` | " in page
    assert "| `BACKEND_PASSWORD` | none |  | The password" in page


def test_the_page_and_the_example_name_the_same_variables() -> None:
    example = (ROOT / ".env.example").read_text()
    in_example = set(re.findall(r"^# ([A-Z_]+)=", example, re.MULTILINE))
    of_one_start = {"DETACH", "VAR_DIR"}  # set on the command line, not in a file
    assert set(SETTING_ROW.findall(SETTINGS_PAGE.read_text())) == in_example | of_one_start
