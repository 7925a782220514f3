"""Add the options that several commands share, and open the selected project."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import TYPE_CHECKING

from backend.base.progress import Progress
from backend.base.settings import Settings
from backend.labelstudio.attached_project import open_project
from backend.labelstudio.project import LabelStudioProject
from backend.store.project_record import pick_project

if TYPE_CHECKING:
    from backend.rounds.loop import Loop


def add_project_option(parser: ArgumentParser, *subcommands: ArgumentParser) -> None:
    """Add --project to a command and its subcommands.

    The option works before and after the name of a subcommand.
    """
    text = "the project's id in Label Studio, if there are several projects"
    parser.add_argument("--project", type=int, metavar="ID", help=text)
    for subcommand in subcommands:  # without a default, which would overwrite an earlier value
        subcommand.add_argument("--project", type=int, metavar="ID", default=SUPPRESS, help=text)


def at_least(least: int) -> Callable[[str], int]:
    """Return an argparse type that accepts only integers of `least` or more."""

    def number(text: str) -> int:
        if int(text) < least:
            raise ArgumentTypeError(f"must be {least} or more")
        return int(text)

    return number


def open_chosen(
    settings: Settings, chosen: int | None, progress: Progress
) -> tuple[LabelStudioProject, Loop]:
    """Return the project and its loop."""
    from backend.rounds.loop import open_loop  # imports torch, which most commands do not need

    settings.require("label_studio_api_key")
    project_id = pick_project(settings.model_dir, chosen)
    project = open_project(settings, project_id)
    return project, open_loop(settings, project_id, project, progress=progress)
