"""Test whether a task's image travels in the task, as an upload, or as an address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from backend.base.labeling import LabelConfig, TaskImage
from backend.base.settings import Settings
from backend.rounds.task_images import show_images
from scripts.research.oracle import OracleProject

IDS = [f"image-{number:03d}" for number in range(150)]


@dataclass
class Pictures:
    """A pool whose images have a given number of bytes; only the first has an address."""

    n_bytes: int

    @property
    def source(self) -> Pictures:
        return self

    def url(self, image_id: str) -> str | None:
        return "https://images.example.org/0.jpg" if image_id == IDS[0] else None

    def task_image(self, image_id: str, max_side_px: int) -> TaskImage:  # noqa: ARG002
        return TaskImage(bytes(self.n_bytes), "image/jpeg")


@dataclass
class CountingProject(OracleProject):
    """Counts the files of each upload."""

    takes_uploads: bool = True
    sent: list[int] = field(default_factory=list)

    def label_config(self) -> LabelConfig:
        return replace(super().label_config(), takes_uploads=self.takes_uploads)

    def upload(self, images: Mapping[str, TaskImage]) -> dict[str, str]:
        if images:
            self.sent.append(len(images))
        return super().upload(images)


def shown(
    n_bytes: int, project: OracleProject, by: Literal["copy", "url"] = "copy"
) -> dict[str, str]:
    settings = Settings.model_construct(task_images=by)
    return show_images(Pictures(n_bytes), project, IDS, settings)  # type: ignore[arg-type]


def test_an_image_of_50_kb_travels_in_the_task() -> None:
    project = CountingProject(("cat", "dog"))
    values = shown(50_000, project)
    assert all(value.startswith("data:image/jpeg;base64,") for value in values.values())
    assert (list(values), project.sent) == (IDS, [])


def test_larger_images_are_uploaded_100_at_a_time() -> None:
    project = CountingProject(("cat", "dog"))
    values = shown(50_001, project)
    assert values == {image_id: f"/data/upload/{image_id}" for image_id in IDS}
    assert project.sent == [100, 50]


def test_one_request_uploads_at_most_50_mb() -> None:
    project = CountingProject(("cat", "dog"))
    shown(5_000_000, project)
    assert project.sent == [10] * 15


def test_large_images_travel_in_the_task_if_the_label_config_takes_no_uploads() -> None:
    project = CountingProject(("cat", "dog"))
    project.takes_uploads = False
    values = shown(50_001, project)
    assert {value[:10] for value in values.values()} == {"data:image"}
    assert project.sent == []


def test_images_with_an_address_go_as_that_address_only_if_the_user_wants_it() -> None:
    copied = shown(1, CountingProject(("cat", "dog")))
    linked = shown(1, CountingProject(("cat", "dog")), by="url")
    assert copied[IDS[0]].startswith("data:")
    assert linked[IDS[0]] == "https://images.example.org/0.jpg"
    assert linked[IDS[1]].startswith("data:")
