"""Push reviews once and collect them as ground truth, with two oracles in place of Label Studio
and a real Redis for the clock and the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from redis import Redis
from rq import Queue

from backend.base.errors import LabelStudioError, ModelFolderError
from backend.base.labeling import Annotation, NewTask
from backend.base.settings import Settings, load_settings
from backend.images.pool import Pool
from backend.images.splits import LabeledSplit
from backend.network.training import Recipe
from backend.queue.training_queue import TrainingQueue
from backend.rounds import observe
from backend.rounds import reviews as reviews_module
from backend.rounds.decide import decide
from backend.rounds.loop import Loop
from backend.rounds.reviews import collect_reviews, find_label_errors, push_reviews, review_title
from backend.store.finish_store import FinishImage, FinishTry
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from backend.workers import jobs
from backend.workers.clock import Clock
from scripts.research.oracle import OracleProject
from tests.conftest import RedisServer
from tests.unit.store.test_registry import record

PROJECT, REVIEWS, SENIOR = 7, 8, 9
CLASSES = ("cat", "dog")
IMAGES = ("img-1", "img-2", "img-3")  # task 1, 2, 3 of the project


@pytest.fixture
def project() -> OracleProject:
    """Return a project whose model is sure of dogs and whose annotator always chose cat."""
    own = OracleProject(CLASSES)
    own.import_tasks([NewTask(i, {"image_id": i, "asked_probs": [0.1, 0.9]}) for i in IMAGES])
    for task_id in own.by_task:
        own.answer(task_id, "cat")
    return own


@pytest.fixture
def loop(tmp_path: Path, project: OracleProject) -> Loop:
    nothing = LabeledSplit((), np.zeros((0, 2, 2, 3), np.uint8), np.zeros(0, np.int64))
    return Loop(
        settings=Settings.model_construct(data_dir=tmp_path, overlap="1", batch_size=10),
        root=project_root(tmp_path, PROJECT),
        project=project,
        choices=CLASSES,
        pool=Pool(
            name="digits",
            classes=CLASSES,
            image_ids=IMAGES,
            images=np.zeros((3, 2, 2, 3), np.uint8),
            validation=nothing,
            test=nothing,
            may_flip=False,
            notice="",
            folder=tmp_path,
            image_size=32,
        ),
        weights="none",
        recipe=Recipe(image_size=32),
        seed=0,
        device=torch.device("cpu"),
    )


@pytest.fixture
def reviews(loop: Loop) -> OracleProject:
    """Return the review project with an open task for each image, in their order."""
    own = OracleProject(CLASSES)
    loop.store.start_reviews(REVIEWS)
    assert push_reviews(loop, own, find_label_errors(loop, quiet)) == 3
    return own


def quiet(*_: object) -> None:
    """No progress."""


def truths(project: OracleProject) -> dict[str, list[tuple[str | None, int | None]]]:
    """Return label and annotator of the ground truths by image."""
    return {
        of_task[0].image_id: [(a.label, a.annotator) for a in of_task if a.is_ground_truth]
        for of_task in project.answers.values()
        if any(a.is_ground_truth for a in of_task)
    }


def collect(loop: Loop, project: OracleProject, reviews: OracleProject) -> int:
    return collect_reviews(loop.root, project, reviews)


# Pushing


def test_review_tasks_name_the_label_in_question_and_the_reason_and_hold_no_prediction(
    reviews: OracleProject,
) -> None:
    task = reviews.by_task[1]
    assert task.image_id == task.data["image_id"] == "img-1"
    assert task.data["image"].startswith("data:image/png;base64,")
    assert task.data["review_label"] == "cat"
    assert task.data["review_reason"].startswith("one annotator chose cat; the model")
    assert task.data.keys() == {"image", "image_id", "review_label", "review_reason"}
    assert (task.prediction, task.label) == (None, None)


def test_pushing_again_creates_tasks_only_for_images_without_one(
    loop: Loop, reviews: OracleProject
) -> None:
    errors = find_label_errors(loop, quiet)
    reviews.delete_tasks([2])
    assert push_reviews(loop, reviews, errors) == 1
    assert push_reviews(loop, reviews, errors) == 0
    assert sorted(task.image_id for task in reviews.tasks()) == list(IMAGES)


def test_images_of_an_acceptance_sample_are_not_reviewed_while_people_label_it(
    loop: Loop,
) -> None:
    begun = FinishTry(1, 0.0, "r0001", 0.1, 0.025, 0.9, 2, 1, 0, 2)
    images = [FinishImage(image_id, "dog", 0.9) for image_id in ("img-2", "img-3")]
    loop.finish_store.begin(begun, images, ["img-3"])
    assert [error.image_id for error in find_label_errors(loop, quiet)] == ["img-1", "img-2"]
    loop.finish_store.end(1, "failed", 1, 60.0)
    assert [error.image_id for error in find_label_errors(loop, quiet)] == [*IMAGES]


@pytest.mark.parametrize("title", ["Cats", "x" * 50, "x" * 41 + " and more"])
def test_the_review_project_is_named_after_its_project_within_label_studios_limit(
    title: str,
) -> None:
    made = review_title(title)
    assert made.endswith(": review")
    assert len(made) <= 50
    assert title.startswith(made.removesuffix(": review"))
    assert " :" not in made


# Collecting


def test_a_review_becomes_ground_truth_in_the_reviewers_name_and_is_not_listed_again(
    loop: Loop, project: OracleProject, reviews: OracleProject
) -> None:
    reviews.answer(2, "dog", annotator=SENIOR)
    assert collect(loop, project, reviews) == 1
    assert truths(project) == {"img-2": [("dog", SENIOR)]}
    assert {e.image_id for e in find_label_errors(loop, quiet)} == {"img-1", "img-3"}


def test_a_review_is_collected_once(
    loop: Loop, project: OracleProject, reviews: OracleProject
) -> None:
    reviews.answer(1, "dog", annotator=SENIOR)
    collect(loop, project, reviews)
    assert collect(loop, project, reviews) == 0
    assert len(project.answers[1]) == 2


def test_an_identical_ground_truth_is_left_as_it_is(
    loop: Loop, project: OracleProject, reviews: OracleProject
) -> None:
    project.add_ground_truth(1, "dog", annotator=2)
    reviews.answer(1, "dog", annotator=SENIOR)
    assert collect(loop, project, reviews) == 0
    assert truths(project) == {"img-1": [("dog", 2)]}


def test_a_changed_review_replaces_its_earlier_ground_truth(
    loop: Loop, project: OracleProject, reviews: OracleProject
) -> None:
    reviews.answer(1, "dog", annotator=SENIOR)
    collect(loop, project, reviews)
    reviews.change(1, "cat")
    assert collect(loop, project, reviews) == 1
    assert truths(project) == {"img-1": [("cat", SENIOR)]}


def test_the_later_of_two_reviews_counts(
    loop: Loop, project: OracleProject, reviews: OracleProject
) -> None:
    reviews.answer(1, "dog", annotator=SENIOR)
    reviews.answer(1, "cat", annotator=SENIOR + 1)
    early, late = reviews.answers[1]
    reviews.answers[1] = [replace(early, updated_at="2027"), replace(late, updated_at="2026")]
    collect(loop, project, reviews)
    assert truths(project) == {"img-1": [("dog", SENIOR)]}


def test_skipped_and_empty_reviews_settle_nothing(
    loop: Loop, project: OracleProject, reviews: OracleProject
) -> None:
    reviews.answer(1, None, was_skipped=True)
    reviews.answer(2, None)
    assert collect(loop, project, reviews) == 0
    assert truths(project) == {}


def test_a_ground_truth_that_was_deleted_is_not_restored(
    loop: Loop, project: OracleProject, reviews: OracleProject
) -> None:
    reviews.answer(1, "dog", annotator=SENIOR)
    collect(loop, project, reviews)
    del project.answers[1][-1]
    assert collect(loop, project, reviews) == 0
    assert truths(project) == {}


def test_a_review_of_a_deleted_task_does_not_stop_the_others(
    loop: Loop, project: OracleProject, reviews: OracleProject, caplog: pytest.LogCaptureFixture
) -> None:
    reviews.answer(1, "dog", annotator=SENIOR)
    reviews.answer(2, "dog", annotator=SENIOR)
    project.delete_tasks([1])
    assert collect(loop, project, reviews) == 1
    assert truths(project) == {"img-2": [("dog", SENIOR)]}
    assert "img-1 was reviewed, but its task was deleted" in caplog.text


def test_a_review_with_a_removed_class_does_not_stop_the_others(
    loop: Loop, project: OracleProject, reviews: OracleProject, caplog: pytest.LogCaptureFixture
) -> None:
    reviews.answer(1, "wolf", annotator=SENIOR)
    reviews.answer(2, "dog", annotator=SENIOR)
    assert collect(loop, project, reviews) == 1
    assert truths(project) == {"img-2": [("dog", SENIOR)]}
    assert "img-1 was reviewed as wolf, which is no longer a class" in caplog.text


def test_an_interrupted_collection_is_completed_without_duplicate_ground_truths(
    loop: Loop, project: OracleProject, reviews: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews.answer(1, "dog", annotator=SENIOR)
    reviews.answer(2, "dog", annotator=SENIOR)
    settle = project.add_ground_truth

    def settle_only_the_first(task_id: int, label: str, annotator: int) -> None:
        if task_id == 2:
            raise LabelStudioError("Label Studio cannot be reached")
        settle(task_id, label, annotator)

    with monkeypatch.context() as away:
        away.setattr(project, "add_ground_truth", settle_only_the_first)
        with pytest.raises(LabelStudioError):
            collect(loop, project, reviews)
    assert collect(loop, project, reviews) == 1
    assert truths(project) == {"img-1": [("dog", SENIOR)], "img-2": [("dog", SENIOR)]}
    assert len(project.answers[1]) == 2


def test_a_damaged_review_record_says_what_to_do(loop: Loop, settings: Settings) -> None:
    loop.root.mkdir(parents=True, exist_ok=True)
    (loop.root / "project.db").write_text("{half")
    with pytest.raises(ModelFolderError, match=r"project\.db is damaged .*, or move it away"):
        reviews_module.find_reviews(settings, loop.root)


# The clock and the job


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = load_settings(
        _env_file=None, model_dir=tmp_path, redis_url=redis_server.url, batch_size=1
    )
    write_record(project_root(tmp_path, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def store(settings: Settings, project: OracleProject) -> ProjectStore:
    """Return the store of a project in which no step but collecting can be due."""
    asked = {"image_id": "img-4", "asked_by": "random", "asked_round": 0}
    project.import_tasks([NewTask("img-4", asked)])  # a whole batch is open
    own = ProjectStore(project_root(settings.model_dir, PROJECT))
    observe.read_changes(project, own)
    assert own.n_open() == 1
    return own


@pytest.fixture
def run_job(
    settings: Settings,
    queue: TrainingQueue,
    store: ProjectStore,  # noqa: ARG001
    project: OracleProject,
    reviews: OracleProject,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], None]:
    """Run the job as the ranker does, with an oracle for each project."""
    work = jobs.Work(settings, queue, PROJECT)
    work.project = project
    monkeypatch.setattr(jobs, "_open", lambda _: work)
    monkeypatch.setattr(reviews_module, "find_reviews", lambda *_: reviews)
    return lambda: jobs.rank(PROJECT)


def test_the_clock_enqueues_collecting_if_a_review_project_exists(
    settings: Settings,
    queue: TrainingQueue,
    store: ProjectStore,
    project: OracleProject,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(settings, queue)
    monkeypatch.setattr("backend.workers.clock.open_project", lambda *_: project)
    ranks = Queue("rank", connection=Redis.from_url(redis_server.url))
    root = project_root(settings.model_dir, PROJECT)
    noon = time.time()
    clock.tick(noon)
    assert ranks.job_ids == []
    store.start_reviews(REVIEWS)
    clock.tick(noon + settings.reconcile_every_s - 1)
    assert ranks.job_ids == []  # with the next look at Label Studio
    clock.tick(noon + settings.reconcile_every_s)
    clock.tick(noon + 2 * settings.reconcile_every_s)
    clock.close()
    assert ranks.job_ids == ["rank-p7"]
    state = observe.observe(root, queue, PROJECT)
    assert decide(state, settings, noon + settings.reconcile_every_s).rank == "collect_reviews"


def test_the_job_collects_reviewed_labels(
    store: ProjectStore,
    project: OracleProject,
    reviews: OracleProject,
    run_job: Callable[[], None],
) -> None:
    reviews.answer(3, "dog", annotator=SENIOR)
    run_job()
    assert truths(project) == {"img-3": [("dog", SENIOR)]}
    assert store.errors() == []


def test_the_job_records_why_reviews_cannot_be_collected(
    store: ProjectStore,
    reviews: OracleProject,
    run_job: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_away() -> dict[int, list[Annotation]]:
        raise LabelStudioError("Label Studio cannot be reached")

    monkeypatch.setattr(reviews, "annotations", is_away)
    run_job()
    [error] = store.errors()
    assert (error.where, error.message) == (
        "collecting reviews",
        "Label Studio cannot be reached",
    )


def test_the_job_collects_nothing_if_the_review_project_was_deleted(
    store: ProjectStore,
    project: OracleProject,
    run_job: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reviews_module, "find_reviews", lambda *_: None)
    run_job()
    assert truths(project) == {}
    assert store.errors() == []
