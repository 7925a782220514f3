"""The status of a project and its summary in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis import Redis
from rq import SimpleWorker
from rq.job import Job

from backend.base.labeling import (
    VALIDATION,
    Annotation,
    Asked,
    DeletedSkip,
    Task,
    TaskReading,
)
from backend.base.settings import Settings, load_settings
from backend.measures.evaluation import Evaluation
from backend.measures.forecast import Forecast
from backend.people.validation_labels import ValidationProgress
from backend.queue.training_queue import TrainingQueue
from backend.rounds.accuracy import outlook_sentence
from backend.store import model_outputs, pruning
from backend.store.finish_store import FinishStore
from backend.store.model_outputs import own_embeddings
from backend.store.project_db import writing
from backend.store.project_record import project_root, write_record
from backend.store.project_rows import AnnotatorFigures, FinishOutlook, OpenImage
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.web.status import next_images, project_status, sentence, whole_status
from backend.web.status_model import Confusion, JobStatus
from tests.conftest import RedisServer
from tests.unit.store.test_finish_store import FIRST, IMAGES, SAMPLE
from tests.unit.store.test_registry import attached, meta, record
from tests.unit.store.test_registry import save as save_version

PROJECT = 7
NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC
ESTIMATE = Evaluation(accuracy=0.63, log_loss=1.1, images=140)
ADA = AnnotatorFigures(1, "Ada", 12, 3, 0.75, 0.8, 0.55, 0.95, 12, 0.5, 0.25, 4.2)
OUTLOOK = FinishOutlook(
    max_error=0.05, model_labels=800, sample=90, allowed_errors=1, pass_probability=0.7
)
VALIDATED_BY_PEOPLE = {
    "validation": "people",
    "validation_labels": 200,
    "validation_images": 267,
}
DOCUMENTED = (Path(__file__).parents[3] / "docs/status.md").read_text()


@pytest.fixture
def settings(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = load_settings(_env_file=None, model_dir=tmp_path, redis_url=redis_server.url, rounds=1)
    write_record(project_root(tmp_path, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def root(settings: Settings) -> Path:
    return project_root(settings.model_dir, PROJECT)


@pytest.fixture
def store(root: Path) -> ProjectStore:
    return ProjectStore(root)


def keep_reading(
    root: Path,
    *,
    annotations: int = 0,
    skipped: int = 0,
    n_open: int = 0,
    again: int = 0,
    new: int = 0,
    at: float = NOON,
) -> None:
    """Record a reading of Label Studio: tasks with one annotation each, of which `again` also await
    a second opinion, and open tasks. The last training has learned all annotations but `new`.
    """
    store, moment = ProjectStore(root), "2026-01-01T12:00:00Z"
    labels = [*["cat"] * annotations, *[None] * skipped]
    annotated = [
        Annotation(n, n, f"img-{n}", 1, label, was_skipped=label is None, updated_at=moment)
        for n, label in enumerate(labels)
    ]
    done = [
        TaskReading(
            Task(n, f"img-{n}", is_open=False, awaits_second_opinion=n < again),
            moment,
            (annotation,),
            None,
        )
        for n, annotation in enumerate(annotated)
    ]
    waiting = [
        TaskReading(
            Task(n, f"img-{n}", is_open=True, awaits_second_opinion=False), moment, (), None
        )
        for n in range(len(annotated), len(annotated) + n_open)
    ]
    store.record_tasks([*done, *waiting], at)
    store.record_reading(at, is_full=True)
    learned = annotated[: len(annotated) - new]
    store.record_learned(
        {annotation.annotation_id: annotation.digest for annotation in learned}, at
    )


def keep_validation(root: Path, *labels: str | None, pending: int = 0) -> None:
    """Make a project be validated by Ada, who wants to label 200 images; None is an image that she
    skipped twice. More images are `pending`.
    """
    write_record(root, record(PROJECT).model_copy(update=VALIDATED_BY_PEOPLE))
    store, moment = ProjectStore(root), "2026-01-01T12:00:00Z"
    given: list[str | None] = [*labels, *[""] * pending]
    store.record_asked([Asked(f"val-{n}", 1, VALIDATION, "r0001") for n in range(len(given))])
    tasks = []
    for n, label in enumerate(given):
        annotation = Annotation(
            1000 + n, 1000 + n, f"val-{n}", 1, label, was_skipped=label is None, updated_at=moment
        )
        if label is None:
            store.record_deleted_skip(DeletedSkip(2000 + n, f"val-{n}", 1))
        is_pending = label == ""
        task = Task(1000 + n, f"val-{n}", is_open=is_pending, awaits_second_opinion=False)
        tasks.append(TaskReading(task, moment, () if is_pending else (annotation,), None))
    store.record_tasks(tasks, NOON)


def save(settings: Settings, number: int, **changes: Any) -> None:
    root = project_root(settings.model_dir, PROJECT)
    saved = save_version(root, meta(number, **changes))
    if saved.refused is None:
        Registry(root).promote(saved.version)


def say(settings: Settings, queue: TrainingQueue) -> str:
    return sentence(project_status(settings, queue, PROJECT))


def test_before_the_first_version_it_says_so(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    keep_reading(root, annotations=3, n_open=20, new=3)
    assert say(settings, queue) == (
        "T, round 0: no model yet; 20 open tasks, 3 of 20 new annotations until the next training "
        "run."
    )


def test_the_sentence_names_the_version_in_service_and_its_accuracy(
    settings: Settings, queue: TrainingQueue
) -> None:
    save(settings, 1)
    assert say(settings, queue).startswith(
        "T, round 1: r0001 in service, 50.0% right on 2,000 validation images, "
        "trained on 10 labels; "
    )


def test_the_strategy_is_the_one_with_which_the_project_was_set_up(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    assert project_status(settings, queue, PROJECT).strategy == "least_confidence"
    write_record(root, record(PROJECT).model_copy(update={"strategy": "auto"}))
    assert project_status(settings, queue, PROJECT).strategy == "auto"


def test_a_running_training_shows_how_far_it_is(
    settings: Settings, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    connection = Redis.from_url(redis_server.url)
    queue.enqueue("retrain", PROJECT)
    assert "no trainer is running" in say(settings, queue)
    worker = SimpleWorker(["train"], connection=connection, serializer="json")
    worker.register_birth()  # type: ignore[no-untyped-call]
    assert "training is queued." in say(settings, queue)
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    job.set_status("started")  # type: ignore[arg-type]
    queue.report_progress(job, "training", 0, 80)
    job.meta["progress"]["since"] -= 10
    queue.report_progress(job, "training", 20, 80)
    assert "training 25%, about 30 s left" in say(settings, queue)


def test_while_the_body_is_adapted_the_sentence_says_how_far_it_is(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    save(settings, 1)
    keep_reading(root, annotations=25, n_open=18, new=25)
    status = project_status(settings, queue, PROJECT)
    assert "adapting" not in sentence(status)
    running = {"adaptation": replace(status.adaptation, state="running")}
    job = JobStatus(job="adapt", queue="train", status="started", seconds_left=None)
    starting = status.model_copy(update=running | {"jobs": (job,)})
    assert sentence(starting).endswith("; 18 open tasks; adapting the body.")
    progress = {"phase": "adapting the body", "done": 720, "total": 1800, "seconds_left": 1080.0}
    begun = status.model_copy(update=running | {"jobs": (job.model_copy(update=progress),)})
    assert sentence(begun).endswith("; 18 open tasks; adapting the body 40%, about 18 min left.")


def test_a_project_is_finished_after_the_last_round_and_the_last_annotation(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    save(settings, 1)
    keep_reading(root)
    assert "finished" not in say(settings, queue)  # the final training is still due
    save(settings, 2)
    assert say(settings, queue).endswith("; finished.")
    keep_reading(root, annotations=1, new=1)
    assert "finished" not in say(settings, queue)
    keep_reading(root, annotations=1)
    assert say(settings, queue).endswith("; finished.")
    queue.hint(PROJECT, NOON + 1, ["img-0"])  # Label Studio has not been read since this webhook
    assert "finished" not in say(settings, queue)


def test_a_finished_project_may_still_await_second_opinions_and_says_so(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    save(settings, 2)
    keep_reading(root, annotations=4, again=3)
    assert say(settings, queue).endswith("; finished; 3 images await a second opinion.")
    assert project_status(settings, queue, PROJECT).asked_again == 3


def test_a_project_with_an_exhausted_pool_is_finished(
    settings: Settings, queue: TrainingQueue, root: Path, store: ProjectStore
) -> None:
    save(settings, 1)
    keep_reading(root)
    store.record(exhausted_at=NOON)
    assert say(settings, queue).endswith("; finished.")
    store.record(undecoded_images=5)  # they will be asked
    assert "finished" not in say(settings, queue)


def test_the_status_tells_how_many_images_there_are_and_when_they_were_looked_for(
    settings: Settings, queue: TrainingQueue, store: ProjectStore
) -> None:
    store.record(pool_images=36, undecoded_images=4, rescanned_at=1_700_000_000.0)
    status = project_status(settings, queue, PROJECT)
    assert (status.pool_images, status.undecoded_images) == (36, 4)
    assert status.rescanned_at == "2023-11-14T22:13:20+00:00"


def test_refused_and_broken_versions_are_named(settings: Settings, queue: TrainingQueue) -> None:
    save(settings, 1)
    save(settings, 2, refused="plainly worse")
    (project_root(settings.model_dir, PROJECT) / "r0003").mkdir()
    status = project_status(settings, queue, PROJECT)
    assert status.version == "r0001"
    assert status.refused == {"r0002": "plainly worse"}
    assert "no meta.json" in status.broken_versions["r0003"]


def test_training_seconds_are_those_of_the_newest_full_training(
    settings: Settings, queue: TrainingQueue
) -> None:
    assert project_status(settings, queue, PROJECT).training_seconds == {}
    save(settings, 1, seconds={"training": 9.0})
    save(settings, 2, seconds={"training": 7.0, "scoring the pool": 3.0}, refused="worse")
    save(settings, 2, version="r0002h01", seconds={"training": 0.2})
    reported = project_status(settings, queue, PROJECT).training_seconds
    assert reported == {"training": 7.0, "scoring the pool": 3.0}


def test_annotator_figures_are_those_of_the_last_round(
    settings: Settings, queue: TrainingQueue, store: ProjectStore
) -> None:
    assert project_status(settings, queue, PROJECT).annotators == ()
    store.record_annotators([ADA])
    [reported] = project_status(settings, queue, PROJECT).annotators
    assert reported == ADA


def learned(labels: int, accuracy: float) -> dict[str, Any]:
    return {
        "labels": labels,
        "validation": Evaluation(accuracy=accuracy, log_loss=1.0, images=2000),
    }


def test_the_outlook_has_an_interval_and_a_track_record(
    settings: Settings, queue: TrainingQueue
) -> None:
    for number in range(1, 7):
        labels = 100 * number
        save(settings, number, **learned(labels, 0.8 - 2 * labels**-0.5))
    status = project_status(settings, queue, PROJECT)
    found = status.outlook
    assert found is not None
    expected = 2 * (600**-0.5 - 700**-0.5)
    assert found.gain == pytest.approx(expected, abs=0.002)
    assert found.low < expected < found.high
    assert found.past.forecasts == found.past.inside == 3
    text = outlook_sentence(found)
    assert text.startswith("100 more labels: +0.")
    assert "3 of 3 earlier forecasts held" in text


def test_an_outlook_is_computed_once_and_cached(
    settings: Settings, queue: TrainingQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 5):
        save(settings, number, **learned(100 * number, 0.4 + 0.01 * number))
    first = project_status(settings, queue, PROJECT).outlook
    monkeypatch.delattr("backend.rounds.accuracy.forecast")
    assert project_status(settings, queue, PROJECT).outlook == first
    save(settings, 5, **learned(500, 0.5))
    with pytest.raises(NameError):
        project_status(settings, queue, PROJECT)


def test_the_outlook_needs_three_versions_and_ignores_refused_ones_and_heads(
    settings: Settings, queue: TrainingQueue
) -> None:
    def found() -> Forecast | None:
        return project_status(settings, queue, PROJECT).outlook

    save(settings, 1, **learned(100, 0.5))
    assert found() is None
    save(settings, 2, **learned(200, 0.55))
    save(settings, 3, refused="worse", **learned(300, 0.2))
    save(settings, 2, version="r0002h01", **learned(210, 0.9))
    assert found() is None
    save(settings, 4, **learned(400, 0.6))
    fourth = found()
    assert fourth is not None
    assert abs(fourth.gain) < 0.05


def test_pruned_versions_stay_on_the_learning_curve_and_in_the_forecast(
    settings: Settings, queue: TrainingQueue
) -> None:
    for number in range(1, 7):
        labels = 100 * number
        save(settings, number, **learned(labels, 0.8 - 2 * labels**-0.5))
    before = project_status(settings, queue, PROJECT)
    root = project_root(settings.model_dir, PROJECT)
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    pruning.write_announcement(root, noon - timedelta(days=1))
    pruning.prune(root, own_embeddings(root, ""), 2, lambda: (), noon)
    assert not (root / "r0004/model.safetensors").exists()
    after = project_status(settings, queue, PROJECT)
    assert [p.is_pruned for p in after.learning_curve] == [True] * 4 + [False] * 2
    assert [p.is_pruned for p in before.learning_curve] == [False] * 6
    assert [replace(p, is_pruned=False) for p in after.learning_curve] == [*before.learning_curve]
    for field in ("outlook", "versions", "round", "broken_versions", "version"):
        assert getattr(after, field) == getattr(before, field)
    assert after.outlook is not None
    assert after.outlook.past.forecasts == 3


def test_an_order_that_the_team_changed_is_a_notice(
    settings: Settings, queue: TrainingQueue
) -> None:
    status = project_status(settings, queue, PROJECT)
    assert (status.is_attached, status.order_problem, status.notices) == (False, None, ())
    root = project_root(settings.model_dir, PROJECT)
    ProjectStore(root).record(order_problem="The sampling was changed.")
    status = project_status(settings, queue, PROJECT)
    assert status.order_problem == "The sampling was changed."
    assert status.notices == ("The sampling was changed.",)

    ProjectStore(root).record(annotations_per_task=2)
    for is_attached in (False, True):
        if is_attached:
            write_record(root, attached(record(PROJECT)))
        status = project_status(settings, queue, PROJECT)
        assert status.is_attached is is_attached
        assert [notice[:42] for notice in status.notices] == [
            "The sampling was changed.",
            "This project asks for 2 annotations per ta",
        ]


def test_a_changed_connection_or_label_config_is_a_notice(
    settings: Settings, queue: TrainingQueue, store: ProjectStore
) -> None:
    store.record(connection_problem="The webhook was deleted.", label_config_problem="No images.")
    assert project_status(settings, queue, PROJECT).notices == (
        "No images.",
        "The webhook was deleted.",
    )


def test_a_task_that_cannot_be_listed_is_a_notice(settings: Settings, queue: TrainingQueue) -> None:
    ProjectStore(project_root(settings.model_dir, PROJECT)).record(unlisted_tasks=[508])
    [notice] = project_status(settings, queue, PROJECT).notices
    assert notice.startswith("Label Studio cannot list task 508")


def test_many_open_tasks_that_people_added_are_a_notice_but_not_open_tasks(
    settings: Settings, queue: TrainingQueue, store: ProjectStore, root: Path
) -> None:
    keep_reading(root, annotations=1, n_open=3)
    few = settings.model_copy(update={"batch_size": 5})
    for count, n_notices in ((4, 0), (5, 1)):
        added = [
            TaskReading(
                Task(n, "", is_open=True, awaits_second_opinion=False), "2026", (), None,
                is_unmarked=True,
            )
            for n in range(100, 100 + count)
        ]  # fmt: skip
        store.record_tasks(added, NOON)
        status = project_status(few, queue, PROJECT)
        assert (status.open_tasks, len(status.notices)) == (3, n_notices)
    assert status.notices[0].startswith("5 open tasks were not created by Tightloop")


def test_announced_pruning_is_a_notice(settings: Settings, queue: TrainingQueue) -> None:
    few = settings.model_copy(update={"keep_versions": 1})
    for number in (1, 2, 3):
        save(settings, number)
    assert project_status(few, queue, PROJECT).notices == ()
    root = project_root(settings.model_dir, PROJECT)
    pruning.write_announcement(root, datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert project_status(few, queue, PROJECT).notices == (
        "the weights of 1 of 3 full versions will be deleted after 2026-01-02 12:00 UTC; "
        "set KEEP_VERSIONS=0 to keep all",
    )
    assert project_status(settings, queue, PROJECT).notices == ()


def test_the_learning_curve_has_a_point_per_version_with_its_interval(
    settings: Settings, queue: TrainingQueue
) -> None:
    save(settings, 1)
    save(settings, 2, refused="plainly worse")
    save(settings, 1, version="r0001h01")
    points = project_status(settings, queue, PROJECT).learning_curve
    assert [p.version for p in points] == ["r0001", "r0001h01", "r0002"]
    assert [p.is_current for p in points] == [False, True, False]
    assert [p.is_head for p in points] == [False, True, False]
    assert [p.refused for p in points] == [None, None, "plainly worse"]
    assert (points[0].low, points[0].high) == pytest.approx((0.4781, 0.5219), abs=1e-4)


def test_the_confusion_counts_predicted_classes_per_true_class(
    settings: Settings, queue: TrainingQueue
) -> None:
    assert project_status(settings, queue, PROJECT).confusion is None
    root = project_root(settings.model_dir, PROJECT)
    save_version(root, meta(1))
    truth = np.array([0, 0, 0, 1])  # three cats, one of them taken for a dog, and a dog
    says = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]], np.float32)
    model_outputs.save_validation_probs(root, "r0001", truth, says)
    Registry(root).promote("r0001")
    status = project_status(settings, queue, PROJECT)
    assert status.confusion == Confusion(classes=("cat", "dog"), counts=((2, 1), (0, 1)))
    assert status.labels_per_class == {"cat": 4, "dog": 6}


def test_validation_images_with_known_labels_have_no_progress(
    settings: Settings, queue: TrainingQueue
) -> None:
    save(settings, 1, cross_validation=ESTIMATE)
    status = project_status(settings, queue, PROJECT)
    assert (status.validation_by, status.validation_labels) == ("known", None)
    assert status.cross_validation is None


def test_the_progress_of_the_annotators_who_label_the_validation_images_is_counted(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    keep_validation(root, "cat", "dog", None, "cat", pending=2)
    status = project_status(settings, queue, PROJECT)
    assert status.validation_by == "people"
    assert status.validation_labels == ValidationProgress(
        labeled=3, wanted=200, undecided=1, pending=2
    )


def test_the_estimate_is_reported_until_a_hundred_validation_images_are_labeled(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    save(settings, 1, cross_validation=ESTIMATE)
    keep_validation(root, *["cat"] * 99)
    assert project_status(settings, queue, PROJECT).cross_validation == ESTIMATE
    keep_validation(root, *["cat"] * 100)
    assert project_status(settings, queue, PROJECT).cross_validation is None


def test_the_sentence_says_how_few_validation_images_annotators_have_labeled(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    save(settings, 1, validation=Evaluation(accuracy=0.75, log_loss=0.7, images=12))
    keep_validation(root, *["cat"] * 12, None)
    assert (
        "r0001 in service, accuracy not known yet: 12 of 200 validation images labeled, 1 of 13 "
        "undecided, trained on 10 labels"
    ) in sentence(project_status(settings, queue, PROJECT))
    save(settings, 2, validation=Evaluation(accuracy=0.75, log_loss=0.7, images=60))
    keep_validation(root, *["cat"] * 60)
    assert (
        "r0002 in service, 75.0% right (62.8% to 84.2%) on 60 validation images labeled by "
        "annotators, trained on 10 labels"
    ) in sentence(project_status(settings, queue, PROJECT))


def test_the_confusion_follows_classes_that_were_added_removed_and_renamed(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    classes = ("cat", "dog", "frog", "puppy", "emu")
    changed = {
        "classes": classes,
        "removed_classes": ("dog", "frog"),
        "renamed_classes": (("dog", "puppy"),),
    }
    write_record(root, record(PROJECT).model_copy(update=changed))
    save_version(root, meta(1, classes=("Cat", "dog", "frog")))
    truth = np.array([0, 1, 2, 1])  # a cat, two dogs, and a frog
    says = np.array([[0.4, 0, 0.6], [0.1, 0.9, 0], [0, 0, 1], [0.6, 0.4, 0]], np.float32)
    model_outputs.save_validation_probs(root, "r0001", truth, says)
    Registry(root).promote("r0001")
    assert project_status(settings, queue, PROJECT).confusion == Confusion(
        classes=("Cat", "puppy", "emu"), counts=((1, 0, 0), (1, 1, 0), (0, 0, 0))
    )


def test_annotations_of_a_removed_class_and_a_new_class_of_the_pool_are_notices(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    keep_validation(root, "cat", "emu", "emu")
    ProjectStore(root).record(pool_classes=("cat", "dog", "frog"))
    left_out, new = project_status(settings, queue, PROJECT).notices
    assert left_out.startswith('2 annotations of the class "emu", which the label config does not')
    assert new.startswith('The pool has images of "frog", which annotators cannot choose yet')


def test_the_confusion_follows_new_validation_labels(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    save(settings, 1)
    says = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], np.float32)
    for labels, counts in (
        ([-1, -1, -1], None),
        ([0, -1, -1], ((1, 0), (0, 0))),
        ([0, 1, 1], ((1, 0), (1, 1))),
    ):
        sample = model_outputs.SampleProbs(("a", "b", "c"), says, np.array(labels))
        model_outputs.save_sample_probs(root, "r0001", sample)
        confusion = project_status(settings, queue, PROJECT).confusion
        assert (confusion.counts if confusion else None) == counts


def keep_open(store: ProjectStore, *image_ids: str) -> None:
    images = [
        OpenImage(
            image_id=image_id,
            confidence=0.1 * place,
            guesses=(("cat", 0.6), ("dog", 0.4)),
            is_again=False,
            picture="data:,",
        )
        for place, image_id in enumerate(image_ids)
    ]
    store.record_open_images(NOON, images)


def test_images_annotated_since_the_last_order_are_not_next(
    settings: Settings, queue: TrainingQueue, store: ProjectStore
) -> None:
    assert next_images(settings, queue, PROJECT) == []
    queue.hint(PROJECT, NOON - 3600, ["c"])  # then opened again
    keep_open(store, "a", "b", "c")
    queue.hint(PROJECT, NOON + 1, ["a"])
    reported = project_status(settings, queue, PROJECT).model_dump()["next_images"]
    assert [image["image_id"] for image in reported] == ["b", "c"]
    assert reported[0] == {
        "image_id": "b",
        "confidence": 0.1,
        "guesses": (("cat", 0.6), ("dog", 0.4)),
        "is_again": False,
        "is_validation": False,
        "is_acceptance": False,
    }


def test_with_blind_labeling_the_status_holds_no_guess(
    settings: Settings, queue: TrainingQueue, store: ProjectStore
) -> None:
    keep_open(store, "a")
    blind = settings.model_copy(update={"blind": True})
    [image] = project_status(blind, queue, PROJECT).next_images
    assert image.guesses == ()


def test_a_job_has_a_phase_only_after_its_first_report(
    settings: Settings, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    queue.enqueue("retrain", PROJECT)
    waits = {"job": "retrain", "queue": "train", "status": "queued", "seconds_left": None}
    [reported] = project_status(settings, queue, PROJECT).model_dump(mode="json")["jobs"]
    assert reported == waits
    job = Job.fetch("retrain-p7", connection=Redis.from_url(redis_server.url), serializer="json")
    queue.report_progress(job, "reading annotations", 0, 0)
    [reported] = project_status(settings, queue, PROJECT).model_dump(mode="json")["jobs"]
    assert reported == waits | {"phase": "reading annotations", "done": 0, "total": 0}


def test_a_ranker_job_is_named_by_the_step_that_it_has_started(
    settings: Settings, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    queue.hint(PROJECT, NOON, ["a"])
    waits = {"job": "rank", "queue": "rank", "status": "queued", "seconds_left": None}
    [reported] = project_status(settings, queue, PROJECT).model_dump(mode="json")["jobs"]
    assert reported == waits
    job = Job.fetch("rank-p7", connection=Redis.from_url(redis_server.url), serializer="json")
    for step in ("read", "top_up"):
        queue.report_step(job, step)
        queue.report_progress(job, "reading annotations", 3, 4)
        [reported] = project_status(settings, queue, PROJECT).model_dump(mode="json")["jobs"]
        phase = {"phase": "reading annotations", "done": 3, "total": 4}
        assert reported | {"seconds_left": None} == waits | phase | {"job": step}


def test_the_next_step_of_a_job_has_no_phase_before_its_own_first_report(
    settings: Settings, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    queue.enqueue("rank", PROJECT)
    job = Job.fetch("rank-p7", connection=Redis.from_url(redis_server.url), serializer="json")
    queue.report_step(job, "read")
    queue.report_progress(job, "reading annotations", 3, 4)
    queue.report_step(job, "refit")
    [reported] = project_status(settings, queue, PROJECT).jobs
    assert (reported.job, reported.phase, reported.done) == ("refit", None, None)


@pytest.mark.parametrize("figures", ['{"name": "Ada"}', "1", '"Ada"', "{"])
def test_annotator_figures_that_cannot_be_read_are_reported_with_what_to_do(
    settings: Settings, queue: TrainingQueue, root: Path, figures: str
) -> None:
    write_record(project_root(settings.model_dir, 8), record(8))
    with writing(root) as db:
        db.execute("INSERT INTO own_annotator VALUES (0, ?)", (figures,))
    status = whole_status(settings, queue)
    assert [project.project_id for project in status.projects] == [8]
    assert list(status.unreadable) == ["7"]
    problem = status.unreadable["7"]
    assert "project.db is damaged (a row cannot be read): restore a backup" in problem


def test_unreadable_annotator_figures_of_an_earlier_release_are_left_out(
    settings: Settings, queue: TrainingQueue, root: Path, store: ProjectStore
) -> None:
    (root / "annotators.json").write_text('[{"name": "Ada"}]')
    store.record(read_at=NOON)
    assert project_status(settings, queue, PROJECT).annotators == ()


# Labels by the model


def test_before_the_first_try_the_status_shows_only_what_the_model_could_label(
    settings: Settings, queue: TrainingQueue, store: ProjectStore
) -> None:
    store.record(finish_outlook=[OUTLOOK.model_dump()], finish_wanted=0.05)
    status = project_status(settings, queue, PROJECT)
    assert (status.finish, status.finish_wanted, status.goal) == (None, 0.05, "learn")
    assert status.finish_outlook == (OUTLOOK,)


def test_a_project_is_not_finished_while_an_acceptance_sample_is_labeled(
    settings: Settings, queue: TrainingQueue, root: Path, store: ProjectStore
) -> None:
    keep_reading(root, annotations=3)
    store.record(exhausted_at=NOON)
    endless = settings.model_copy(update={"rounds": 0})
    assert project_status(endless, queue, PROJECT).is_finished
    FinishStore(root).begin(FIRST, IMAGES, SAMPLE)
    assert not project_status(endless, queue, PROJECT).is_finished
    FinishStore(root).end(1, "passed", 0, NOON)
    assert project_status(endless, queue, PROJECT).is_finished


# Before Label Studio was read


def files(folder: Path) -> dict[str, int]:
    """Return everything below a folder with the time of its last change."""
    return {str(path): path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_before_the_database_exists_nothing_is_known_and_reading_creates_no_file(
    settings: Settings, queue: TrainingQueue, root: Path
) -> None:
    before = files(settings.model_dir)
    status = project_status(settings, queue, PROJECT)
    counts = (status.annotations, status.skipped, status.open_tasks, status.asked_again)
    assert counts == (None, None, None, None)
    lists = (status.annotators, status.next_images, status.errors, status.notices, status.jobs)
    assert lists == ((), (), (), (), ())
    assert (status.new_annotations, status.waiting_for, status.is_finished) == (0, None, False)
    assert sentence(status) == (
        "T, round 0: no model yet; ? open tasks, 0 of 20 new annotations until the next training "
        "run."
    )
    assert files(settings.model_dir) == before
    assert [path.name for path in root.iterdir()] == ["project.json"]


def test_images_named_by_a_webhook_count_before_label_studio_was_read(
    settings: Settings, queue: TrainingQueue
) -> None:
    queue.hint(PROJECT, NOON, ["a", "b"])
    status = project_status(settings, queue, PROJECT)
    assert (status.new_annotations, status.open_tasks) == (2, None)


def test_counts_are_unknown_before_the_first_reading_has_ended(
    settings: Settings, queue: TrainingQueue, root: Path, store: ProjectStore
) -> None:
    task = TaskReading(
        Task(1, "img-1", is_open=True, awaits_second_opinion=False), "2026", (), None
    )
    store.record_tasks([task], NOON)  # one of many
    assert project_status(settings, queue, PROJECT).open_tasks is None
    keep_reading(root, annotations=2, skipped=1, n_open=5, again=1)
    status = project_status(settings, queue, PROJECT)
    counts = (status.annotations, status.skipped, status.open_tasks, status.asked_again)
    assert counts == (2, 1, 5, 1)


def test_every_field_of_the_status_is_documented_and_nothing_else_is(
    settings: Settings, queue: TrainingQueue, store: ProjectStore
) -> None:
    """Compare the tables of docs/status.md with what GET /status returns."""
    save(settings, 1)
    keep_open(store, "a")
    store.record_annotators([ADA, replace(ADA, annotator=2)])
    for number in range(2, 5):
        save(settings, number, **learned(100 * number, 0.4 + 0.01 * number))
    model_outputs.save_validation_probs(
        project_root(settings.model_dir, PROJECT),
        "r0004",
        np.array([0]),
        np.array([[0.9, 0.1]], np.float32),
    )
    keep_validation(project_root(settings.model_dir, PROJECT), "cat")
    FinishStore(project_root(settings.model_dir, PROJECT)).begin(FIRST, IMAGES, SAMPLE)
    store.record(finish_outlook=[OUTLOOK.model_dump()])
    queue.enqueue("retrain", PROJECT)
    store.record_error("training", "the disk is full: free space", step="retrain")
    status = whole_status(settings, queue).as_json()
    [project] = status["projects"]
    returned = {
        "services": set(status["services"][0]),
        "projects": set(project),
        "adaptation": set(project["adaptation"]),
        "validation": set(project["validation"]),
        "validation_labels": set(project["validation_labels"]),
        "confusion": set(project["confusion"]),
        "learning_curve": set(project["learning_curve"][0]),
        "next_images": set(project["next_images"][0]),
        "outlook": set(project["outlook"]),
        "finish": set(project["finish"]),
        "finish_outlook": set(project["finish_outlook"][0]),
        "past": set(project["outlook"]["past"]),
        "annotators": set(project["annotators"][0]),
        "jobs": set(project["jobs"][0]) | {"phase", "done", "total"},
        "errors": set(project["errors"][0]),
    }
    documented: dict[str, set[str]] = {}
    for line in DOCUMENTED.splitlines():
        if line.startswith("## `"):
            documented[line.split("`")[1]] = section = set()
        elif line.startswith("| `"):
            section.update(line.split("|")[1].replace("`", "").replace(",", " ").split())
    assert documented == returned
    json.dumps(status)
