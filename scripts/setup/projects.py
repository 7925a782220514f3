"""Find a project by its title, and list links to all projects that are set up."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from backend.base.errors import ModelFolderError
from backend.labelstudio.client import TITLE_LENGTH, label_now_url
from backend.store.project_record import ProjectRecord, project_root, read_records
from backend.store.project_store import ProjectStore

FELL_BACK = " (digits: CIFAR-10 could not be had)"
FELL_BACK_SHORT = " (digits)"


class Link(TypedDict):
    """A project as listed in stack.json."""

    project_id: int
    title: str
    project_url: str


def titles_of(title: str) -> tuple[str, str]:
    """Return the project's title, and the title to use if POOL=auto falls back to the digits."""
    suffix = FELL_BACK if len(title + FELL_BACK) <= TITLE_LENGTH else FELL_BACK_SHORT
    return title, title[: TITLE_LENGTH - len(suffix)] + suffix


def recorded_projects(model_dir: Path) -> list[ProjectRecord]:
    """Return the record of each project, in the order in which the projects were set up.

    The first record belongs to the stack's default project; projects that are gone from Label
    Studio come last. If a project that we created was deleted in Label Studio and created again,
    only its later record counts.
    """
    by_key: dict[str | int, ProjectRecord] = {}
    for record in read_records(model_dir) if model_dir.is_dir() else ():
        by_key[record.project_id if record.is_attached else record.title] = record
    return sorted(by_key.values(), key=lambda record: _is_gone(model_dir, record.project_id))


def find_record(model_dir: Path, title: str | None) -> ProjectRecord | None:
    """Return the record of the project with this title, or of the first if `title` is None."""
    records = recorded_projects(model_dir)
    if title is None:
        return next(iter(records), None)
    return next((record for record in records if record.title in titles_of(title)), None)


def project_links(model_dir: Path, browser_url: str) -> list[Link]:
    """Return the title and the address of every project."""
    return [
        {
            "project_id": record.project_id,
            "title": record.title,
            "project_url": label_now_url(browser_url, record.project_id),
        }
        for record in recorded_projects(model_dir)
    ]


def _is_gone(model_dir: Path, project_id: int) -> bool:
    try:
        return bool(ProjectStore(project_root(model_dir, project_id)).facts().gone)
    except ModelFolderError:  # a damaged database is reported when the project is used
        return False
