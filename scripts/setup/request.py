"""Describe a request to set up a project, with the settings that were given for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from backend.base.errors import SettingsError
from backend.base.project_settings import ATTACHED
from backend.base.settings import Settings, load_settings
from scripts.setup.projects import find_record

DECIDED = frozenset({"classes", "label_config"})  # by the label config of an existing project


@dataclass(frozen=True)
class Request:
    """A request to set up a project. Settings that were not given keep their recorded values."""

    settings: Settings
    title: str | None  # None = the project that was set up first
    given: frozenset[str]  # the names of the settings that were given for this project
    may_change: bool = False  # whether a given setting may replace the recorded one
    may_create: bool = True

    @classmethod
    def from_settings(cls, settings: Settings, *, may_change: bool = False) -> Self:
        """Request the project named PROJECT_TITLE, with settings from the environment and .env."""
        given = frozenset(settings.model_fields_set)
        title = settings.project_title if "project_title" in given else None
        return cls(settings, title, given, may_change)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, may_change: bool = False) -> Self:
        """Request a project with command-line options, which take precedence over the environment.

        If the title differs from PROJECT_TITLE, settings from the environment are ignored, because
        they belong to the project named PROJECT_TITLE.
        """
        settings = load_settings(**options)
        title = options.get("project_title")
        if title is None or title == load_settings().project_title:
            return cls.from_settings(settings, may_change=may_change)
        return cls(settings, title, frozenset(options), may_change)

    @classmethod
    def to_refresh(cls, settings: Settings, title: str) -> Self:
        """Request a recorded project with its recorded settings."""
        return cls(settings, title, frozenset(), may_create=False)

    @property
    def is_for_existing(self) -> bool:
        """Return whether Tightloop is, or will be, attached to the project."""
        record = find_record(self.settings.model_dir, self.title)
        return self.value("pool") == ATTACHED or (record is not None and record.is_attached)

    def existing_project(self) -> int:
        """Return PROJECT_ID. Raises SettingsError if it is missing, or if a setting is given that
        the existing project's label config determines.
        """
        if self.settings.project_id is None:
            raise SettingsError(
                f"POOL={ATTACHED} needs PROJECT_ID: the number in the project's address in Label "
                "Studio, /projects/12/data"
            )
        if decided := sorted(self.given & DECIDED):
            raise SettingsError(
                f"{', '.join(map(str.upper, decided))} cannot be set with POOL={ATTACHED}, because "
                "the label config of the existing project is used: remove the setting"
            )
        return self.settings.project_id

    def value(self, name: str) -> Any:
        """Return a setting if it was given for this project, else None."""
        return getattr(self.settings, name) if name in self.given else None
