"""Name changes to the label config that hide images or make annotations unusable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.base.labeling import Annotation, LabelConfig, Task, TaskReading
from backend.rounds.label_config_problem import record_label_config
from backend.store.project_record import ProjectRecord
from backend.store.project_store import ProjectStore
from tests.unit.store.test_registry import attached, record

OURS = LabelConfig("label", "image", "image", ("cat", "dog"))


@pytest.fixture
def store(tmp_path: Path) -> ProjectStore:
    return ProjectStore(tmp_path)


def read(store: ProjectStore, *, is_of_other_control: bool, address: str | None = None) -> None:
    """Read a task with one annotation, made with the current control or another one."""
    label = None if is_of_other_control else "cat"
    annotation = Annotation(
        5, 1, "a", 2, label, was_skipped=False, updated_at="2026-01-01",
        is_of_other_control=is_of_other_control,
    )  # fmt: skip
    task = Task(1, "a", is_open=False, awaits_second_opinion=False)
    store.record_tasks([TaskReading(task, "2026-01-01", (annotation,), None, address)], 10.0)


def problem(store: ProjectStore, config: LabelConfig, project: ProjectRecord | None = None) -> str:
    record_label_config(store, project or record(7), config)
    return store.facts().label_config_problem


def test_annotations_of_a_renamed_control_are_counted_until_the_name_is_changed_back(
    store: ProjectStore,
) -> None:
    read(store, is_of_other_control=False)
    assert problem(store, OURS) == ""
    read(store, is_of_other_control=True)
    for name in ("class", "kind"):  # renamed twice
        assert problem(store, replace(OURS, from_name=name)) == (
            "The annotations made with the control “label” (1) are not used, because the label "
            f"config's Choices are now named “{name}”. In Label Studio under Settings > Labeling "
            "Interface, change the name back to “label”."
        )
    read(store, is_of_other_control=False)
    assert problem(store, OURS) == ""


def test_a_control_that_is_renamed_before_anyone_used_it_is_no_problem(
    store: ProjectStore,
) -> None:
    assert problem(store, OURS) == ""
    assert problem(store, replace(OURS, from_name="class")) == ""
    read(store, is_of_other_control=True)  # of another control that the team also uses
    assert problem(store, replace(OURS, from_name="class")) == ""


def test_an_image_key_that_our_tasks_do_not_have_hides_the_images(store: ProjectStore) -> None:
    assert problem(store, replace(OURS, image_key="img")) == (
        "Annotators see no images, because the label config's Image now shows “$img”, but the "
        "tasks have their images under “image”. In Label Studio under Settings > Labeling "
        "Interface, change its value back to “$image”."
    )
    assert problem(store, OURS) == ""


def test_a_team_may_switch_to_another_key_that_has_images(store: ProjectStore) -> None:
    theirs = attached(record(7))
    read(store, is_of_other_control=False, address="/a.png")
    assert problem(store, OURS, theirs) == ""
    read(store, is_of_other_control=False, address="/large/a.png")
    assert problem(store, replace(OURS, image_key="large"), theirs) == ""
    read(store, is_of_other_control=False, address="")
    assert "tasks have their images under “large”" in problem(
        store, replace(OURS, image_key="img"), theirs
    )
    read(store, is_of_other_control=False, address="/large/a.png")
    assert problem(store, replace(OURS, image_key="large"), theirs) == ""
