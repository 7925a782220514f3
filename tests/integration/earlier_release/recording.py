"""Read what an earlier release kept, as `record` wrote it."""

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
        """A file as it is."""
        return (self.folder / name).read_text()

    def json(self, name: str) -> Any:
        """A file's JSON."""
        return json.loads(self.text(name))

    @cached_property
    def settings(self) -> dict[str, str]:
        """What its stack was set to."""
        return dict(self.json("made.json")["settings"])

    @cached_property
    def project(self) -> dict[str, Any]:
        """The project's own settings in Label Studio."""
        return dict(self.json("label_studio/project.json"))

    @cached_property
    def review(self) -> dict[str, Any]:
        """The same of the project where its labels are reviewed."""
        return dict(self.json("label_studio/review.json"))

    @cached_property
    def tasks(self) -> list[dict[str, Any]]:
        """The project's tasks, oldest first, with annotations and predictions."""
        return list(self.json("label_studio/project_tasks.json"))

    @cached_property
    def review_tasks(self) -> list[dict[str, Any]]:
        """Those of the review."""
        return list(self.json("label_studio/review_tasks.json"))

    @cached_property
    def users(self) -> list[dict[str, Any]]:
        """All who have an account, the admin first."""
        return list(self.json("label_studio/users.json"))

    @cached_property
    def status(self) -> dict[str, Any]:
        """What GET /status said of the project."""
        return dict(self.json("status.json"))

    @property
    def model_files(self) -> Path:
        """What lay in the project's folder of model versions, but for weights."""
        return self.folder / f"p{self.project['id']}"
