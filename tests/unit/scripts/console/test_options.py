"""The arguments that several commands share."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest

from scripts.console.options import add_project_option


@pytest.mark.parametrize(
    ("line", "project"),
    [("--project 3 list", 3), ("list --project 3", 3), ("list", None)],
)
def test_the_project_may_be_named_before_and_after_a_sub_command(
    line: str, project: int | None
) -> None:
    parser = ArgumentParser()
    listing = parser.add_subparsers().add_parser("list")
    add_project_option(parser, listing)
    assert parser.parse_args(line.split()).project == project
