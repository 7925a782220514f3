"""Describe how far the model has labeled the rest, on numbers that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.base.labeling import Annotation, Task, TaskReading
from backend.base.settings import Settings
from backend.rounds.finish_progress import (
    FinishProgress,
    finish_progress,
    finish_sentence,
    percent,
    promise,
)
from backend.store.finish_store import FinishStore
from backend.store.project_record import write_record
from backend.store.project_store import ProjectStore
from tests.unit.store.test_finish_store import FIRST, IMAGES, SAMPLE
from tests.unit.store.test_registry import record

SETTINGS = Settings.model_construct(overlap="1")
PASSED = FinishProgress(
    number=1,
    state="passed",
    version="r0007",
    max_error=0.02,
    sample=183,
    decided=183,
    errors=0,
    allowed_errors=0,
    model_labels=14_210,
    most_wrong=284,
    unlabeled=17_400,
    left_for_people=3_190,
    hours_left=4.2,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_record(tmp_path, record(7))
    return tmp_path


def annotate(root: Path, task_id: int, image_id: str, label: str, second: int = 0) -> None:
    given = Annotation(
        annotation_id=task_id,
        task_id=task_id,
        image_id=image_id,
        annotator=1,
        label=label,
        was_skipped=False,
        updated_at=f"2026-01-01T12:{second // 60:02d}:{second % 60:02d}Z",
    )
    task = Task(task_id, image_id, is_open=False, awaits_second_opinion=False)
    ProjectStore(root).record_tasks([TaskReading(task, "2026-01-01", (given,), None)], 1.0)


def progress_of(root: Path) -> FinishProgress:
    found = finish_progress(SETTINGS, root)
    assert found is not None
    return found


def test_a_project_without_a_try_has_no_progress(root: Path) -> None:
    assert finish_progress(SETTINGS, root) is None


def test_while_a_sample_is_asked_its_labels_are_counted_and_judged(root: Path) -> None:
    FinishStore(root).begin(FIRST, IMAGES, SAMPLE)
    ProjectStore(root).record(unlabeled_images=9)
    annotate(root, 1, "i4", "cat")
    progress = progress_of(root)
    assert (progress.state, progress.decided, progress.errors) == ("asking", 1, 0)
    assert (progress.model_labels, progress.most_wrong, progress.left_for_people) == (4, 1, 5)
    assert finish_sentence(progress) == "acceptance sample: 1 of 2 labeled, 0 errors (0 allowed)"


def test_a_wrong_label_is_an_error(root: Path) -> None:
    FinishStore(root).begin(FIRST, IMAGES, SAMPLE)
    annotate(root, 1, "i4", "dog")
    assert progress_of(root).errors == 1
    assert finish_sentence(progress_of(root)).endswith("labeled, 1 error (0 allowed)")


def test_after_the_try_the_labels_and_what_is_left_are_counted(root: Path) -> None:
    FinishStore(root).begin(FIRST, IMAGES, SAMPLE)
    FinishStore(root).end(1, "passed", 0, 1.0, 2)
    for number in range(11):  # one every 36 seconds: 100 an hour
        annotate(root, number + 1, f"other-{number}", "cat", 36 * number)
    ProjectStore(root).record(unlabeled_images=24)
    progress = progress_of(root)
    assert (progress.model_labels, progress.unlabeled, progress.left_for_people) == (4, 24, 20)
    assert progress.hours_left == pytest.approx(0.2)
    assert finish_sentence(progress) == (
        "4 of 24 can be labeled by the model (at most 25 % wrong, with 95 % confidence); "
        "20 are left for people, about 12 minutes at today's pace"
    )


def test_the_promise_stays_a_count_if_people_label_some_of_its_images(root: Path) -> None:
    FinishStore(root).begin(FIRST, IMAGES, SAMPLE)
    FinishStore(root).end(1, "passed", 0, 1.0, 2)
    annotate(root, 1, "i0", "dog")
    progress = progress_of(root)
    assert (progress.model_labels, progress.most_wrong) == (3, 1)
    assert "(at most 1 wrong, with 95 % confidence)" in finish_sentence(progress)


def test_promises_of_several_tries_add_up(root: Path) -> None:
    finish = FinishStore(root)
    finish.begin(FIRST, IMAGES, SAMPLE)
    finish.end(1, "passed", 0, 1.0, 2)
    others = [replace(image, image_id=f"j{n}") for n, image in enumerate(IMAGES)]
    finish.begin(replace(FIRST, number=2), others, ["j0", "j1"])
    finish.end(2, "passed", 0, 2.0, 2)
    progress = progress_of(root)
    assert (progress.number, progress.model_labels, progress.most_wrong) == (2, 8, 2)


def test_a_share_is_promised_only_for_all_labels_by_the_model_together(root: Path) -> None:
    finish = FinishStore(root)
    finish.begin(FIRST, IMAGES, SAMPLE)
    finish.end(1, "passed", 0, 1.0, 2)
    others = [replace(image, image_id=f"j{n}") for n, image in enumerate(IMAGES)]
    finish.begin(replace(FIRST, number=2, max_error=0.1), others, ["j0", "j1"])
    # One of the first 4 labels and none of the next 4: more than 10 % of 8
    assert promise(progress_of(root)) == "at most 1 wrong, with 95 % confidence"


def test_a_share_of_which_rounding_loses_a_bit_is_still_named() -> None:
    exact = replace(PASSED, model_labels=100, max_error=0.29, most_wrong=29)  # 0.29 * 100 < 29
    assert promise(exact) == "at most 29 % wrong, with 95 % confidence"


def test_the_sentence_of_a_large_project() -> None:
    assert finish_sentence(PASSED) == (
        "14,210 of 17,400 can be labeled by the model (at most 2 % wrong, with 95 % confidence); "
        "3,190 are left for people, about 4 hours at today's pace"
    )
    unknown = replace(PASSED, hours_left=None)
    assert finish_sentence(unknown).endswith("; 3,190 are left for people")
    assert finish_sentence(replace(PASSED, left_for_people=0)).endswith("none are left for people")


def test_the_sentence_of_a_try_that_failed_or_was_canceled() -> None:
    failed = replace(PASSED, state="failed", decided=57, errors=1)
    assert finish_sentence(failed) == (
        "the acceptance sample failed: 1 error (0 allowed) in 57 of 183 images. Label more images, "
        "then try again"
    )
    assert finish_sentence(replace(PASSED, state="canceled")) == ""


@pytest.mark.parametrize(
    ("share", "text"), [(0.02, "2 %"), (0.005, "0.5 %"), (0.1, "10 %"), (0.025, "2.5 %")]
)
def test_shares_are_written_in_percent(share: float, text: str) -> None:
    assert percent(share) == text
