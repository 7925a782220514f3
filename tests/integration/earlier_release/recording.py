"""Read the recording of an earlier release that `record` wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recorded"


@dataclass(frozen=True)
class Recording:
    """A project of an earlier release, with the ids that it had there."""

    folder: Path = FOLDER

    def text(self, name: str) -> str:
        """Return the text of a file."""
        return (self.folder / name).read_text()

    def json(self, name: str) -> Any:
        """Return the JSON of a file."""
        return json.loads(self.text(name))

    @cached_property
    def settings(self) -> dict[str, str]:
        """The settings of its stack."""
        return dict(self.json("made.json")["settings"])

    @cached_property
    def project(self) -> dict[str, Any]:
        """The project's own settings in Label Studio."""
        return dict(self.json("label_studio/project.json"))

    @cached_property
    def review(self) -> dict[str, Any]:
        """The settings of the review project."""
        return dict(self.json("label_studio/review.json"))

    @cached_property
    def tasks(self) -> list[dict[str, Any]]:
        """The project's tasks, oldest first, with annotations and predictions."""
        return list(self.json("label_studio/project_tasks.json"))

    @cached_property
    def review_tasks(self) -> list[dict[str, Any]]:
        """The review project's tasks, oldest first."""
        return list(self.json("label_studio/review_tasks.json"))

    @cached_property
    def users(self) -> list[dict[str, Any]]:
        """All who have an account, the admin first."""
        return list(self.json("label_studio/users.json"))

    @cached_property
    def status(self) -> dict[str, Any]:
        """What GET /status reported on the project."""
        return dict(self.json("status.json"))

    @property
    def model_files(self) -> Path:
        """The project's model folder without weights."""
        return self.folder / f"p{self.project['id']}"
