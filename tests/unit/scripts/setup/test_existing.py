"""Describe a project before Tightloop is attached to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.base.classes import ClassList
from backend.base.labeling import Annotation, LabelConfig
from backend.base.settings import Settings
from backend.store.project_record import FormerSettings
from scripts.setup.existing import ExistingProject, Labels, count_labels, describe

CHOICES = ("sparrow", "robin", "unsure")
FORMER = FormerSettings(
    sampling="Sequential sampling", model_version="", show_collab_predictions=True, description=""
)
FOUND = ExistingProject(
    project_id=12,
    title="Birds",
    n_tasks=20_000,
    n_open=18_000,
    config=LabelConfig("kind", "pic", "photo", CHOICES),
    former=FORMER,
    labels=Labels({"sparrow": 1204, "robin": 746, "unsure": 50}, {"skipped": 31}, 2000, 3),
    images={"uploaded to Label Studio": 19_990},
    n_validation=200,
)


def annotation(number: int, label: str | None, person: int = 1, **fields: bool) -> Annotation:
    defaults = {"was_skipped": False}
    return Annotation(number, 1, "ls-1", person, label, updated_at="", **(defaults | fields))


def plan(found: ExistingProject = FOUND, **changes: object) -> str:
    return "\n".join(describe(found, Settings.load(_env_file=None, **changes)))


def test_the_plan_fits_on_one_screen_and_ends_with_how_to_undo_it() -> None:
    everything = replace(
        FOUND,
        former=replace_former(model_version="their-model", show_collab_predictions=False),
        left_out={"the task has no image": 10},
        n_sampled=50,
        unreadable={"Label Studio answered 404": 1},
        other_backends=["Theirs"],
        annotations_per_task=2,
    )
    lines = plan(everything, overlap="2").splitlines()
    assert len(lines) < 24  # the question follows
    assert max(map(len, lines)) <= 120
    assert lines[-1] == "To undo everything: python -m scripts.setup_project --detach 12"


def replace_former(**changes: object) -> FormerSettings:
    return FORMER.model_copy(update=changes)


def test_the_plan_names_every_setting_that_changes_with_its_present_value() -> None:
    text = plan(replace(FOUND, former=replace_former(show_collab_predictions=False)))
    assert "order       Uncertainty sampling (now: Sequential sampling)" in text
    assert "predictions shown to annotators (now: hidden)" in text
    assert "description states how good the model is (now: empty)" in text
    same = replace(FOUND, former=replace_former(sampling="Uncertainty sampling"))
    assert "order       Uncertainty sampling (as now)" in plan(same)
    hidden = plan(blind=True)
    assert "predictions hidden (now: shown to annotators)" in hidden
    assert "already selected" not in hidden
    kept = plan(replace(FOUND, former=replace_former(description="Our birds")))
    assert "description" not in kept


@pytest.mark.parametrize(
    ("n_images", "sentence"),
    [
        (1200, "1,200 randomly chosen images show no guess: their labels measure the model"),
        (30, "30 randomly chosen images show no guess: their labels measure the model"),
        (
            16,
            "16 randomly chosen images show no guess: too few to measure the model, which takes 30",
        ),
        (
            1,
            "1 randomly chosen image shows no guess: too few to measure the model, which takes 30",
        ),
        (0, "nothing measures the model, because too few images have no annotation"),
    ],
)
def test_the_plan_says_how_many_images_measure_the_model_and_whether_they_suffice(
    n_images: int, sentence: str
) -> None:
    lines = plan(replace(FOUND, n_validation=n_images)).splitlines()
    assert f"  {sentence}" in lines


def test_the_plan_says_what_is_left_out_only_if_anything_is() -> None:
    nothing = replace(FOUND, labels=replace(FOUND.labels, left_out={}))
    assert "leave out" not in plan(nothing)
    text = plan(replace(FOUND, n_sampled=50, unreadable={"not an image": 1}))
    # 1 of 50 is 2 %, and 2 % of 19,990 images are 400
    assert "1 of 50 sampled images cannot be read, so about 400 in total (1: not an image)" in text
    assert "annotations 31 skipped" in text


def test_labels_are_counted_by_task_and_unusable_annotations_by_reason() -> None:
    labels = count_labels(
        [
            [annotation(1, "robin"), annotation(2, "sparrow", person=2)],  # one task, two people
            [annotation(3, None, was_skipped=True), annotation(4, "sparrow")],
            [annotation(5, None)],
            [annotation(6, None, is_of_other_control=True), annotation(7, "crow", person=3)],
        ],
        ClassList(CHOICES, CHOICES),
    )
    assert labels.by_class == {"sparrow": 1, "robin": 1, "unsure": 0}
    assert (labels.n_tasks, labels.n_people) == (2, 2)
    assert labels.left_out == {
        "skipped": 1,
        "without a choice": 1,
        "made with another control": 1,
        "with a class that the label config lacks": 1,
    }


def test_labels_of_a_renamed_class_and_in_another_case_count_in_the_plan() -> None:
    classes = ClassList(CHOICES, CHOICES, (("redbreast", "robin"),))
    labels = count_labels([[annotation(1, "redbreast")], [annotation(2, "Robin ")]], classes)
    assert labels.by_class == {"sparrow": 0, "robin": 2, "unsure": 0}
    assert not labels.left_out


def test_a_project_with_many_classes_keeps_the_plan_short() -> None:
    labels = Labels({f"class {i}": 1 for i in range(30)}, {}, 30, 1)
    assert "class 7 1 and 22 more" in plan(replace(FOUND, labels=labels))
