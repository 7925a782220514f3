"""Order open tasks by the version in service, and record them for the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from backend.base.errors import DetachedError
from backend.images.known_labels import true_labels
from backend.rounds import batches, observe, ordering, scoring
from backend.rounds.loop import Loop
from backend.store.files import lock
from backend.store.project_record import begin_detaching
from backend.store.project_rows import OPEN_IMAGES_KEPT, OpenImage
from backend.store.registry import Promotions
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import (
    asked,
    quiet,
    refit,
    seed,
    team_of,
    train,
    with_settings,
)


def test_open_tasks_get_the_new_versions_order_and_keep_the_previous_predictions(
    loop: Loop, project: OracleProject
) -> None:
    truth = true_labels(loop.pool)
    seed(loop, project)
    train(loop)
    open_tasks = [t.task_id for t in project.tasks() if t.is_open]
    for task_id in open_tasks[:3]:
        project.answer(task_id, truth[project.by_task[task_id].image_id])
    train(loop)
    assert project.model_version() == "r0002"
    for task_id in open_tasks[3:]:
        assert set(project.predictions[task_id]) == {"r0001", "r0002"}


def test_predictions_two_versions_back_are_deleted_after_the_task_lock_time(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    for number in range(3):
        train(loop, is_forced=True)
        # Each was promoted an hour after the one before it, the last one now.
        path = loop.root / "current"
        promotions = loop.registry.promotions()
        at = datetime.now(UTC) - timedelta(hours=2 - number)
        aged = [promotions[0].model_copy(update={"promoted_at": at}), *promotions[1:]]
        path.write_text(Promotions(promotions=aged).model_dump_json())
    assert project.model_versions() == ["r0002", "r0003"]


def test_predictions_of_fast_rounds_are_kept_for_the_task_lock_time(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    for _ in range(3):
        train(loop, is_forced=True)
    assert project.model_versions() == ["r0001", "r0002", "r0003"]


def test_rolling_back_restores_the_older_versions_order_and_updates_the_description(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    train(loop, is_forced=True)
    loop.registry.promote("r0001")
    assert project.description.startswith("Tightloop, round 2: r0002 in service")
    ordering.refresh_predictions(loop)
    assert project.model_version() == "r0001"
    assert project.description.startswith("Tightloop, round 1: r0001 in service")


def test_a_head_orders_the_open_tasks_at_once(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(loop)
    for task in project.open_tasks()[:5]:
        project.answer(task.task_id, true_labels(loop.pool)[task.image_id])
    head = refit(loop)
    assert head.refused is None
    assert project.model_version() == "r0001h01"
    probs = scoring.pool_probs(loop, head, quiet)
    for task in project.open_tasks():
        own = probs[loop.pool.positions([task.image_id])[0]].max()
        shown = project.predictions[task.task_id]["r0001h01"].score
        assert shown == pytest.approx(own, abs=1e-6)


def ask_more(loop: Loop, count: int) -> None:
    """Ask more images than are due, as scripts.sync does."""
    with lock(loop.root, "push"):
        observe.read_everything_changed(loop.project, loop.store)
        batches.push(loop, batches.choose_batch(loop, count, "least_confidence"))


def kept_open(loop: Loop) -> list[OpenImage]:
    assert loop.store.facts().open_read_at > 0
    return loop.store.open_images()


def test_open_images_are_recorded_in_query_order_with_a_picture_and_three_predictions(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    images = kept_open(loop)
    assert [image.image_id for image in images] == asked(project, "r0001")
    confidences = [image.confidence for image in images]
    assert confidences == sorted(confidences)
    for image in images:
        assert len(image.guesses) == 3
        assert image.guesses[0][1] == pytest.approx(image.confidence, abs=1e-6)
        assert image.guesses[0][1] >= image.guesses[1][1] >= image.guesses[2][1]
        assert image.picture.startswith("data:image/png;base64,")


def test_a_first_batch_without_a_model_is_recorded_without_predictions(
    loop: Loop, project: OracleProject
) -> None:
    batches.top_up(loop)
    images = kept_open(loop)
    assert len(images) == len(project.by_task) == 10
    assert {image.guesses for image in images} == {()}


def test_a_new_batch_joins_the_open_images_and_annotated_ones_leave_with_the_next_ordering(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    first = {image.image_id for image in kept_open(loop)}
    ask_more(loop, 5)
    images = kept_open(loop)
    assert len(images) == 15
    assert first < {image.image_id for image in images}
    assert [i.confidence for i in images] == sorted(i.confidence for i in images)
    annotated = next(t for t, task in project.by_task.items() if task.label is None)
    project.answer(annotated, loop.pool.classes[0])
    ordering.refresh_predictions(loop)
    left = {image.image_id for image in kept_open(loop)}
    assert left == {image.image_id for image in images} - {project.by_task[annotated].image_id}


def test_the_number_of_recorded_open_images_is_bounded(loop: Loop, project: OracleProject) -> None:
    seed(loop, project)
    train(with_settings(loop, batch_size=60))
    assert len(kept_open(loop)) == OPEN_IMAGES_KEPT == 48


def test_annotated_images_do_not_crowd_out_new_open_images(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    for _ in range(6):  # 60 in all, between two orders: more than are kept
        for task_id, task in project.by_task.items():
            if task.label is None:
                project.answer(task_id, loop.pool.classes[0])
        ask_more(loop, 10)
    waiting = {task.image_id for task in project.open_tasks()}
    assert {image.image_id for image in kept_open(loop)} == waiting
    assert len(waiting) == 10


# Attached projects


def ask_and_train(loop: Loop) -> None:
    """Have people annotate the open tasks, then train."""
    project = team_of(loop)
    batches.top_up(loop)
    for place, task in enumerate(loop.store.tasks()):
        if task.is_open:
            project.answer(task.task_id, "34"[place % 2])
    train(loop)


def test_a_new_version_predicts_the_asked_tasks_alone_with_three_requests(
    attached: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = team_of(attached)
    ask_and_train(attached)
    asked = project.predicted("r0001")
    writes: list[str] = []

    def count(name: str, call: Callable[..., object], *given: object) -> object:
        writes.append(name)
        return call(*given)

    for name in ("import_predictions", "switch_model_version", "delete_predictions"):
        monkeypatch.setattr(project, name, partial(count, name, getattr(project, name)))
    loop = with_settings(attached, batch_size=5, task_lock_s=0)  # so that no batch is due
    train(loop, is_forced=True)
    assert project.predicted("r0002") != []
    assert set(project.predicted("r0002")) == set(asked)
    assert writes == ["import_predictions", "switch_model_version", "delete_predictions"]


def test_predictions_of_the_first_batch_are_kept_while_a_person_may_have_its_tasks_open(
    attached: Loop,
) -> None:
    project = team_of(attached)
    ask_and_train(attached)
    ordering.refresh_predictions(attached)
    assert project.model_versions() == ["r0000", "r0001"]
    ordering.refresh_predictions(with_settings(attached, task_lock_s=0))
    assert project.model_versions() == ["r0001"]


@pytest.mark.parametrize("is_by_confidence", [True, False])
def test_an_order_that_the_team_chose_is_left_alone(attached: Loop, is_by_confidence: bool) -> None:
    project = team_of(attached)
    ask_and_train(attached)
    project.version, project.is_by_confidence = (
        ("team-v3", True)
        if is_by_confidence
        else (
            "r0001",
            False,
        )
    )
    chosen = project.version
    train(attached, is_forced=True)
    assert project.version == chosen
    assert project.predicted("r0002") != []  # in case the team changes its mind
    assert attached.store.facts().ordered_by == "r0002"  # so that it is not tried every second

    project.version, project.is_by_confidence = "r0001", True
    ordering.refresh_predictions(attached)
    assert project.version == "r0002"


def test_the_teams_former_model_version_is_replaced_by_the_first_batch(attached: Loop) -> None:
    project = team_of(attached)
    project.version = "team-v3"
    batches.top_up(attached)
    assert project.version == "r0000"
    assert attached.store.facts().has_ordered


def test_started_tasks_of_a_project_that_asks_for_two_annotations_get_no_new_predictions(
    attached: Loop,
) -> None:
    project = team_of(attached)
    batches.top_up(attached)
    started, *_ = project.predicted("r0000")
    project.asked_again.add(started)
    project.missing[started] = 2
    attached.store.record(annotations_per_task=2)
    ask_and_train(attached)
    assert started in {t.task_id for t in project.tasks() if t.awaits_second_opinion}
    assert started not in project.predicted("r0001")
    attached.store.record(annotations_per_task=1)  # reopened because OVERLAP was set
    own = with_settings(attached, overlap="2")
    ordering.refresh_predictions(own)
    assert started in project.predicted("r0001")


def test_a_job_changes_nothing_after_the_project_was_detached(attached: Loop) -> None:
    begin_detaching(attached.root)
    with pytest.raises(DetachedError, match="detached from project"):
        ordering.refresh_predictions(attached)
    with pytest.raises(DetachedError, match="detached from project"):
        batches.top_up(attached)
    assert not any(team_of(attached).predictions.values())


def test_a_batch_of_a_new_version_leaves_the_refresh_due_that_older_open_tasks_need(
    attached: Loop,
) -> None:
    """A refresh may have failed before the batch was queried."""
    batches.top_up(attached)
    ask_and_train(attached)
    older = {task.task_id for task in attached.store.tasks() if task.is_open}
    assert older
    attached.store.record(ordered_by="r0000")  # as if the refresh had failed
    for predictions in team_of(attached).predictions.values():
        predictions.pop("r0001", None)
    batches.query(attached, 5)
    assert attached.store.facts().ordered_by != "r0001"
    ordering.refresh_predictions(attached)
    assert older < set(team_of(attached).predicted("r0001"))
    assert attached.store.facts().ordered_by == "r0001"
