"""Have the model label the rest of the digits, with an oracle in place of Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from backend.base.errors import DetachedError, FinishError
from backend.base.labeling import ACCEPTANCE, NewTask, Prediction
from backend.images.known_labels import true_labels
from backend.images.pool import Pool
from backend.measures.finish_plan import FinishPlan
from backend.rounds import batches, finish, observe, ordering
from backend.rounds.finish_reading import FinishReading, read_finish
from backend.rounds.loop import Loop, push_lock
from backend.rounds.prospect import Prospect, look_ahead
from backend.store import model_outputs
from backend.store.finish_store import FinishTry
from backend.store.project_record import begin_detaching
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import quiet, refit, seed, team_of, train, with_settings

N_ABOVE, N_SAMPLE = 100, 15


def plan_for(prospect: Prospect, n_sample: int, allowed_errors: int) -> FinishPlan:
    """Return a plan for the N_ABOVE most confident images, however good the model is."""
    threshold = float(np.sort(prospect.confidences)[-N_ABOVE])
    n_above = int((prospect.confidences >= threshold).sum())
    return FinishPlan(0.1, prospect.share, threshold, n_above, n_sample, allowed_errors, 0.9)


def begin(loop: Loop, n_sample: int = N_SAMPLE, allowed_errors: int = 0) -> FinishTry:
    with push_lock(loop):
        observe.read_everything_changed(loop.project, loop.store)
        prospect = look_ahead(loop, quiet)
        return finish.begin(loop, plan_for(prospect, n_sample, allowed_errors), prospect)


def look(loop: Loop) -> None:
    """Let the ranker look at the project: judge the sample, then query the next images."""
    finish.follow(loop, quiet)
    batches.top_up(loop)


def reading_of(loop: Loop) -> FinishReading:
    observe.read_changes(loop.project, loop.store)
    reading = read_finish(loop.root, loop.classes, may_reopen=loop.may_reopen)
    assert reading is not None
    return reading


def model_label(loop: Loop, task: NewTask) -> str:
    [found] = [
        image.label
        for image in loop.finish_store.sampled_images(loop.finish_store.tries()[-1].number)
        if image.image_id == task.image_id
    ]
    return found


def other(label: str) -> str:
    return str((int(label) + 1) % 10)


def of_sample(project: OracleProject) -> dict[int, NewTask]:
    return {i: t for i, t in project.by_task.items() if t.data.get("asked_by") == ACCEPTANCE}


def open_of_sample(project: OracleProject) -> Iterator[tuple[int, NewTask]]:
    open_tasks = {task.task_id for task in project.open_tasks()}
    yield from ((i, t) for i, t in of_sample(project).items() if i in open_tasks)


def agree(loop: Loop, project: OracleProject, annotator: int = 1, count: int | None = None) -> int:
    """Give open tasks of the sample the model's label; return the number of these tasks."""
    tasks = list(open_of_sample(project))[:count]
    for task_id, task in tasks:
        project.answer(task_id, model_label(loop, task), annotator=annotator)
    return len(tasks)


def disagree(loop: Loop, project: OracleProject, annotator: int = 1) -> int:
    """Give one open task of the sample a label that differs from the model's; return the task."""
    task_id, task = next(open_of_sample(project))
    project.answer(task_id, other(model_label(loop, task)), annotator=annotator)
    return task_id


@pytest.fixture
def trained(loop: Loop, project: OracleProject) -> Loop:
    """Return the loop with a first version, and one open batch of 10 tasks."""
    seed(loop, project)
    train(loop)
    return loop


# Beginning a try


def test_a_try_fixes_the_confident_images_their_labels_and_a_random_sample(
    trained: Loop, project: OracleProject
) -> None:
    prospect = look_ahead(trained, quiet)
    begun = begin(trained)
    queried = {task.image_id for task in project.by_task.values()}
    assert set(prospect.image_ids) == set(trained.pool.image_ids) - queried
    assert (begun.number, begun.version, begun.state) == (1, "r0001", "asking")
    assert (begun.n_images, begun.n_sample, begun.n_unlabeled) == (N_ABOVE, N_SAMPLE, 200)
    assert (begun.share, begun.n_left) == (0.025, 85)
    reserved = trained.finish_store.reserved()
    confident = np.argsort(-prospect.confidences, kind="stable")[:N_ABOVE]
    assert reserved == {prospect.image_ids[row] for row in confident}
    sample = trained.finish_store.sample(1)
    assert len(set(sample)) == N_SAMPLE
    assert set(sample) < reserved
    assert sample != sorted(sample)


def test_the_labels_stay_as_they_were_whatever_later_versions_say(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    before = trained.finish_store.sampled_images(1)
    project.answer_open_tasks(true_labels(trained.pool))
    assert refit(trained).version == "r0001h01"
    assert trained.finish_store.sampled_images(1) == before


def test_a_second_try_is_refused_while_the_first_asks_and_has_half_the_share_afterwards(
    trained: Loop,
) -> None:
    begin(trained)
    with pytest.raises(FinishError, match="already being labeled"):
        begin(trained)
    with push_lock(trained):
        finish.cancel(trained)
    second = begin(trained)
    assert (second.number, second.share, second.n_unlabeled) == (2, 0.0125, 200)


def make_perfect(loop: Loop) -> None:
    """Replace the outputs of r0001 by the true classes, each with a probability of 0.91."""
    truth, n_classes = true_labels(loop.pool), len(loop.pool.classes)
    sure = np.float32(0.01) + np.float32(0.9) * np.eye(n_classes, dtype=np.float32)
    of_pool = [loop.pool.classes.index(truth[i]) for i in loop.pool.image_ids]
    model_outputs.save_pool_probs(loop.root, "r0001", loop.pool.image_ids, sure[of_pool])
    labels = loop.pool.validation.labels
    model_outputs.save_validation_probs(loop.root, "r0001", labels, sure[labels])


def test_a_try_that_a_person_asked_for_begins_once(trained: Loop) -> None:
    make_perfect(trained)
    trained.store.record(finish_wanted=0.1)
    finish.follow(trained, quiet)
    finish.follow(trained, quiet)
    [begun] = trained.finish_store.tries()
    assert (begun.max_error, begun.version, begun.n_images) == (0.1, "r0001", 200)
    assert begun.n_left > begun.n_sample > 30
    assert trained.store.facts().finish_wanted is None


def test_a_promise_that_nothing_reaches_is_refused_with_advice_and_not_tried_again(
    trained: Loop,
) -> None:
    trained.store.record(finish_wanted=0.0001)
    with pytest.raises(FinishError, match=r"at most 0\.01 % wrong: .*has learned from more labels"):
        finish.follow(trained, quiet)
    assert trained.store.facts().finish_wanted is None
    assert trained.finish_store.tries() == []


def test_a_version_without_validation_labels_is_refused_with_the_remedy(
    sampled: Loop, project: OracleProject
) -> None:
    seed(sampled, project)
    train(sampled)
    sampled.store.record(finish_wanted=0.1)
    with pytest.raises(FinishError, match=r"r0001 has not been measured .*: label more"):
        finish.follow(sampled, quiet)


def test_a_person_who_asks_while_a_sample_is_asked_changes_nothing(trained: Loop) -> None:
    begun = begin(trained)
    trained.store.record(finish_wanted=0.5)
    finish.follow(trained, quiet)
    assert trained.finish_store.tries() == [begun]
    assert trained.store.facts().finish_wanted is None


# Asking for the sample


def test_the_sample_is_asked_in_batches_before_anything_else_and_without_a_guess(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    look(trained)
    first = of_sample(project)
    assert [task.image_id for task in first.values()] == trained.finish_store.sample(1)[:10]
    for task_id, task in first.items():
        assert project.predictions[task_id] == {"r0001": Prediction(None, None, 0.0, "r0001")}
        assert task.data["hint"] == ""
        assert not {"asked_probs", "asked_confidence", "asked_margin"} & task.data.keys()
    shown = trained.store.open_images()
    assert [image.is_acceptance for image in shown] == [True] * 10 + [False] * 10
    assert all(image.guesses == () for image in shown[:10])
    look(trained)
    assert len(of_sample(project)) == 10  # a batch is open
    agree(trained, project, count=4)
    look(trained)
    assert len(of_sample(project)) == N_SAMPLE
    assert len(project.by_task) == 40 + 10 + N_SAMPLE  # no other image was queried


def test_the_sample_keeps_its_place_and_shows_no_guess_after_a_new_order(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    look(trained)
    project.answer(min(set(project.by_task) - set(of_sample(project))), "1")
    train(trained, is_forced=True)
    for task_id, _ in open_of_sample(project):
        assert project.predictions[task_id]["r0002"] == Prediction(None, None, 0.0, "r0002")


def test_a_decided_image_whose_task_is_still_open_is_not_put_first_any_more(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    look(trained)
    project.answer(min(set(project.by_task) - set(of_sample(project)) - set(range(41))), "1")
    task_id = disagree(trained, project, annotator=2)
    look(trained)
    assert task_id in project.asked_again
    project.change(task_id, model_label(trained, project.by_task[task_id]))
    observe.read_changes(project, trained.store)
    project.delete_predictions("r0001")
    ordering.order_open_tasks(trained)
    assert project.predictions[task_id] == {}


def test_blind_tasks_have_no_hint(trained: Loop, project: OracleProject) -> None:
    blind = with_settings(trained, blind=True)
    begin(blind)
    look(blind)
    assert all("hint" not in task.data for task in of_sample(project).values())


def test_after_the_sample_only_images_outside_the_try_are_queried(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained, n_sample=5)
    for _ in range(20):
        look(trained)
        project.answer_open_tasks(
            {i.image_id: i.label for i in trained.finish_store.sampled_images(1)}
            | {i: "3" for i in trained.pool.image_ids if i not in trained.finish_store.sample(1)}
        )
    queried = {task.image_id for task in project.by_task.values()}
    rest = set(trained.finish_store.model_labels())
    assert queried == set(trained.pool.image_ids) - rest
    assert len(rest) == N_ABOVE - 5
    [ended] = trained.finish_store.tries()
    assert ended.state == "passed"


def test_the_rounds_limit_does_not_stop_the_sample(trained: Loop, project: OracleProject) -> None:
    limited = with_settings(trained, rounds=1)
    begin(limited, n_sample=5)
    look(limited)
    assert len(of_sample(project)) == 5
    assert len(project.by_task) == 40 + 10 + 5


def test_goal_finish_queries_the_least_confident_images_whatever_the_strategy(
    trained: Loop, project: OracleProject
) -> None:
    by_random = with_settings(trained, strategy="random", goal="finish")
    strategies = [by_random.strategy]
    begin(by_random, n_sample=5)
    strategies += [by_random.strategy, with_settings(trained, strategy="random").strategy]
    assert strategies == ["random", "least_confidence", "random"]
    look(by_random)
    agree(by_random, project)
    project.answer_open_tasks(true_labels(trained.pool))
    look(by_random)
    prospect = look_ahead(trained, quiet)
    batch = [t for t in project.by_task.values() if t.data.get("asked_by") == "least_confidence"]
    newest = batch[10:]
    assert len(newest) == 10
    asked = [t.data["asked_confidence"] for t in newest]
    assert max(asked) <= prospect.confidences.min() + 1e-4


def test_labels_of_the_sample_are_trained_on(trained: Loop, project: OracleProject) -> None:
    begin(trained)
    look(trained)
    agree(trained, project)
    assert train(trained).labels == 50


@pytest.mark.parametrize("overlap", ["auto", "2"])
def test_tasks_of_the_sample_get_no_ordinary_second_opinion(
    overlap: str, trained: Loop, project: OracleProject
) -> None:
    several = with_settings(trained, overlap=overlap)
    begin(several)
    look(several)
    agree(several, project, annotator=1, count=9)
    agree(several, project, annotator=2)
    look(several)
    assert not project.asked_again & set(of_sample(project))


# Judging


def test_a_sample_without_errors_passes_and_the_other_images_keep_the_models_labels(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    look(trained)
    agree(trained, project)
    look(trained)
    assert reading_of(trained).n_right == 10
    agree(trained, project)
    look(trained)
    [ended] = trained.finish_store.tries()
    assert (ended.state, ended.n_errors) == ("passed", 0)
    assert ended.ended_at is not None
    labels = trained.finish_store.model_labels()
    assert len(labels) == N_ABOVE - N_SAMPLE
    assert not set(labels) & set(trained.finish_store.sample(1))
    assert {label.version for label in labels.values()} == {"r0001"}


def test_labels_by_the_model_are_no_annotations_and_not_trained_on(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained, n_sample=5)
    look(trained)
    agree(trained, project)
    look(trained)
    assert trained.finish_store.n_model_labels() == N_ABOVE - 5
    assert trained.store.counts().annotations == 45  # the 40 seeds and the sample
    assert train(trained).labels == 45


def test_one_error_too_many_fails_the_try_at_once_and_gives_its_images_back(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained, n_sample=25, allowed_errors=1)
    look(trained)
    disagree(trained, project)
    look(trained)
    reading = reading_of(trained)
    assert (reading.n_errors, reading.state) == (1, "asking")
    disagree(trained, project)
    look(trained)
    [ended] = trained.finish_store.tries()
    assert (ended.state, ended.n_errors) == ("failed", 2)
    assert trained.finish_store.reserved() == set()
    assert trained.finish_store.model_labels() == {}
    assert len(of_sample(project)) == 20
    project.answer_open_tasks(true_labels(trained.pool))
    look(trained)
    assert len(of_sample(project)) == 20  # the last five images are not asked any more


def test_a_seeming_error_is_overruled_by_a_second_and_a_third_person(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    look(trained)
    for annotator in (2, 3):
        for task_id in sorted(set(project.by_task) - set(of_sample(project)))[-6 + annotator :][:1]:
            project.answer(task_id, "1", annotator=annotator)
    task_id = disagree(trained, project)
    look(trained)
    assert task_id in project.asked_again
    assert project.predictions[task_id]["r0001"].label is None
    label = model_label(trained, project.by_task[task_id])
    project.answer(task_id, label, annotator=2)
    look(trained)
    assert task_id in project.asked_again  # a third person is asked
    assert reading_of(trained).n_decided == 0
    project.answer(task_id, label, annotator=3)
    look(trained)
    assert task_id not in project.asked_again
    assert (reading_of(trained).n_right, reading_of(trained).n_errors) == (1, 0)


def test_a_lone_annotators_skip_is_asked_once_more_and_a_second_skip_is_an_error(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    look(trained)
    agree(trained, project, count=1)
    task_id, _ = next(open_of_sample(project))
    project.answer(task_id, None, was_skipped=True)
    look(trained)
    assert project.answers[task_id] == []
    assert task_id in {task.task_id for task in project.open_tasks()}
    project.answer(task_id, None, was_skipped=True)
    look(trained)
    assert trained.finish_store.tries()[0].state == "failed"


def test_ground_truth_by_a_reviewer_counts(trained: Loop, project: OracleProject) -> None:
    begin(trained)
    look(trained)
    task_id = disagree(trained, project)
    label = model_label(trained, project.by_task[task_id])
    project.add_ground_truth(task_id, label, 9)
    look(trained)
    assert (reading_of(trained).n_right, reading_of(trained).n_errors) == (1, 0)


def test_an_edited_annotation_is_judged_as_it_is_now(trained: Loop, project: OracleProject) -> None:
    begin(trained, allowed_errors=1)
    look(trained)
    task_id = disagree(trained, project)
    assert reading_of(trained).n_errors == 1
    project.change(task_id, model_label(trained, project.by_task[task_id]))
    assert (reading_of(trained).n_right, reading_of(trained).n_errors) == (1, 0)


# Classes that change meanwhile


def renamed(loop: Loop, old: str, new: str) -> Loop:
    names = tuple(new if name == old else name for name in loop.choices)
    classes = (*loop.pool.classes, new)
    return replace(
        loop, choices=names, renamed_classes=((old, new),), pool=replace(loop.pool, classes=classes)
    )


def test_a_renamed_class_is_the_same_class(trained: Loop, project: OracleProject) -> None:
    begin(trained)
    look(trained)
    task_id, task = next(open_of_sample(project))
    label = model_label(trained, task)
    loop = renamed(trained, label, "new name")
    project.answer(task_id, "new name")
    assert (reading_of(loop).n_right, reading_of(loop).n_errors) == (1, 0)


def test_a_removed_class_and_a_new_class_are_errors(trained: Loop, project: OracleProject) -> None:
    begin(trained)
    look(trained)
    labels = [image.label for image in trained.finish_store.sampled_images(1)]
    left = tuple(name for name in trained.choices if name != labels[0])
    assert reading_of(replace(trained, choices=left)).n_errors == labels.count(labels[0])
    task_id, _ = next(open_of_sample(project))
    project.answer(task_id, "unsure")
    added = (*trained.choices, "unsure")
    pool = replace(trained.pool, classes=(*trained.pool.classes, "unsure"))
    assert reading_of(replace(trained, choices=added, pool=pool)).n_errors == 1


# Pools that change meanwhile


def without(loop: Loop, *image_ids: str) -> Loop:
    """Return the loop after its source has lost these images."""
    rows = [row for row, i in enumerate(loop.pool.image_ids) if i not in image_ids]
    pool = replace(
        loop.pool,
        image_ids=tuple(loop.pool.image_ids[row] for row in rows),
        images=loop.pool.images[np.array(rows)],
    )
    return replace(loop, pool=pool)


def test_a_sampled_image_that_left_the_pool_before_it_was_asked_is_an_error(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    lost = trained.finish_store.sample(1)[0]
    smaller = without(trained, lost)
    look(smaller)
    assert lost not in {task.image_id for task in project.by_task.values()}
    finish.follow(smaller, quiet)
    assert smaller.finish_store.tries()[0].state == "failed"


def test_a_sampled_image_that_left_the_pool_after_it_was_asked_is_still_labeled(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    look(trained)
    smaller = without(trained, trained.finish_store.sample(1)[0])
    agree(smaller, project)
    look(smaller)
    assert (reading_of(smaller).n_right, reading_of(smaller).n_errors) == (10, 0)


class PoolWithMove(Pool):
    """Return a pool in which the file "old" was moved to "new"."""

    moved: tuple[str, str]

    def canonical(self, image_id: str) -> str:
        old, new = self.moved
        return new if image_id == old else image_id


def test_a_sampled_image_whose_file_was_moved_is_asked_under_its_new_name(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    old = trained.finish_store.sample(1)[0]
    pool = PoolWithMove(
        **{
            **{name: getattr(trained.pool, name) for name in Pool.__dataclass_fields__},
            "image_ids": tuple("new" if i == old else i for i in trained.pool.image_ids),
        }
    )
    object.__setattr__(pool, "moved", (old, "new"))
    moved = replace(trained, pool=pool)
    assert "new" in moved.reserved_images()
    look(moved)
    assert next(iter(of_sample(project).values())).image_id == "new"
    assert moved.finish_store.sample(1)[0] == "new"
    agree(moved, project)
    assert (reading_of(moved).n_right, reading_of(moved).n_errors) == (10, 0)


def test_an_image_that_someone_annotated_before_it_was_asked_counts(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    image = trained.finish_store.sampled_images(1)[-1]
    project.import_tasks([NewTask(image.image_id, {"image_id": image.image_id}, label=None)])
    project.answer(max(project.by_task), image.label)
    look(trained)
    assert reading_of(trained).n_right == 1


def test_a_deleted_task_of_the_sample_is_created_again(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained)
    look(trained)
    task_id, task = next(open_of_sample(project))
    project.delete_tasks([task_id])
    look(trained)
    assert [t.image_id for t in of_sample(project).values()].count(task.image_id) == 1
    assert len(of_sample(project)) == N_SAMPLE


# Restarts, cancellation, detaching


def test_a_try_whose_process_died_before_the_first_push_is_asked_by_the_next(
    trained: Loop, project: OracleProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(trained)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OracleProject, "import_tasks", die)
        with pytest.raises(KeyboardInterrupt):
            batches.top_up(trained)
    again = replace(trained)  # another process
    batches.top_up(again)
    assert len(of_sample(project)) == 10


def test_a_try_that_is_judged_twice_ends_once(trained: Loop, project: OracleProject) -> None:
    begin(trained, n_sample=5)
    look(trained)
    agree(trained, project)
    observe.read_changes(project, trained.store)
    with push_lock(trained):
        assert finish.judge(trained) is not None
        ended = trained.finish_store.tries()
        assert finish.judge(trained) is None
    assert trained.finish_store.tries() == ended


def test_cancel_gives_the_images_back_and_a_promise_can_be_given_up(
    trained: Loop, project: OracleProject
) -> None:
    begin(trained, n_sample=5)
    with push_lock(trained):
        finish.cancel(trained)
        with pytest.raises(FinishError, match="nothing to cancel"):
            finish.cancel(trained)
    look(trained)
    assert of_sample(project) == {}
    begin(trained, n_sample=5)
    look(trained)
    agree(trained, project)
    look(trained)
    assert trained.finish_store.n_model_labels() == N_ABOVE - 5
    with push_lock(trained):
        finish.cancel(trained)
    assert trained.finish_store.n_model_labels() == 0
    assert [t.state for t in trained.finish_store.tries()] == ["canceled", "canceled"]


def test_nothing_is_asked_after_detaching_and_the_try_goes_on_after_attaching_again(
    attached: Loop,
) -> None:
    batches.top_up(attached)
    prepare_team(attached)
    begun = begin(attached, n_sample=5)
    record = (attached.root / "project.json").read_text()
    begin_detaching(attached.root)
    with pytest.raises(DetachedError):
        batches.top_up(attached)
    (attached.root / "project.json").write_text(record)
    look(attached)
    assert attached.finish_store.current() == begun
    assert len(reading_of(attached).pending) == 5


# Attached projects


def prepare_team(loop: Loop) -> None:
    """Have the team label 30 tasks and train a first version."""
    project = team_of(loop)
    for place, task_id in enumerate(range(1, 31)):
        project.answer(task_id, str(place % 3), annotator=1)
    train(loop)


@pytest.fixture
def team(attached: Loop) -> Loop:
    batches.top_up(attached)
    prepare_team(attached)
    return attached


def test_a_teams_sample_is_put_first_without_a_guess_and_nothing_of_the_team_changes(
    team: Loop,
) -> None:
    project = team_of(team)
    begin(team, n_sample=5)
    look(team)
    sample = {int(image_id[3:]) for image_id in team.finish_store.sample(1)}
    for task_id in sample:
        assert project.predictions[task_id]["r0001"].label is None
    assert sample < set(project.predicted("r0001")[:10])
    for image in team.finish_store.sampled_images(1):
        project.answer(int(image.image_id[3:]), image.label)
    look(team)
    assert team.finish_store.tries()[0].state == "passed"


def test_a_teams_task_that_was_deleted_is_an_error(team: Loop) -> None:
    begin(team, n_sample=5)
    team_of(team).delete_by_team(int(team.finish_store.sample(1)[0][3:]))
    look(team)
    finish.follow(team, quiet)
    assert team.finish_store.tries()[0].state == "failed"


def test_a_teams_seeming_error_is_an_error_because_its_tasks_are_not_reopened(team: Loop) -> None:
    project = team_of(team)
    for task_id in (40, 41, 42, 43, 44, 45):
        project.answer(task_id, "1", annotator=2)
    begin(team, n_sample=5)
    look(team)
    image = team.finish_store.sampled_images(1)[0]
    project.answer(int(image.image_id[3:]), other(image.label))
    look(team)
    assert team.finish_store.tries()[0].state == "failed"


def test_the_outlook_is_recorded_once_per_version(
    trained: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish.follow(trained, quiet)
    facts = trained.store.facts()
    assert [outlook.max_error for outlook in facts.finish_outlook] == [0.02, 0.05, 0.1]
    assert facts.finish_outlook_of == "r0001"

    def refuse(*_: object) -> None:
        raise AssertionError("the outlook of this version is known")

    monkeypatch.setattr(finish, "look_ahead", refuse)
    finish.follow(trained, quiet)
