"""Ask batches of digits, with an oracle in place of Label Studio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.base.labeling import Prediction
from backend.base.strategy_names import STRATEGIES, StrategyName
from backend.images.known_labels import true_labels
from backend.network import resnet
from backend.rounds import batches, embeddings, ordering
from backend.rounds.decide import State
from backend.rounds.loop import Loop
from backend.store import model_outputs
from backend.store.place import LocalPlace
from backend.store.row_store import RowStore
from backend.store.version_meta import Meta
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import asked, seed, team_of, train, with_settings
from tests.unit.store.test_registry import meta


def test_a_round_asks_the_images_its_new_version_is_least_sure_of(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    meta = train(loop)
    kept = model_outputs.load_pool_probs(loop.root, meta.version)
    assert kept is not None
    image_ids, probs = kept.image_ids, kept[:]
    seeds = {task.image_id for task in project.by_task.values() if task.label is not None}
    confidence = {i: row.max() for i, row in zip(image_ids, probs, strict=True) if i not in seeds}
    assert asked(project, "r0001") == sorted(confidence, key=lambda i: confidence[i])[:10]
    assert project.model_version() == "r0001"


def test_every_pushed_task_holds_how_it_was_asked_and_its_prediction(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    task_id, task = next((i, t) for i, t in project.by_task.items() if t.label is None)
    assert task.data["asked_by"] == "least_confidence"
    assert (task.data["asked_round"], task.data["asked_version"]) == (1, "r0001")
    probs = np.array(task.data["asked_probs"])
    assert probs.sum() == pytest.approx(1, abs=1e-3)
    prediction = project.predictions[task_id]["r0001"]
    assert prediction.label == loop.pool.classes[probs.argmax()]
    assert prediction.score == pytest.approx(probs.max(), abs=1e-4)
    assert task.data["asked_confidence"] == pytest.approx(prediction.score, abs=1e-4)
    assert task.data["image"].startswith("data:image/png;base64,")


def test_the_hint_is_the_asking_versions_prediction_in_the_label_configs_spelling(
    loop: Loop,
) -> None:
    pool = replace(loop.pool, classes=tuple("abcdefghij"))
    project = OracleProject(tuple("JABCDEFGHI"))
    probs = np.array([[0.05, 0.41, 0.02, 0.33, 0.02, 0.1, 0.02, 0.02, 0.02, 0.01]], np.float32)
    batch = batches.Batch(pool.image_ids[:1], probs.max(1), "margin", meta(3), probs)
    batches.push(replace(loop, pool=pool, project=project, choices=project.choices), batch)
    [task] = project.by_task.values()
    assert task.data["hint"] == "r0003 guessed when it asked: B 41 %, D 33 %, F 10 %"


def test_blind_leaves_out_everything_that_reveals_the_prediction(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(with_settings(loop, blind=True))
    task = next(t for t in project.by_task.values() if t.label is None)
    readable = {"asked_confidence", "asked_margin", "asked_entropy", "hint"}
    assert readable.isdisjoint(task.data)
    assert len(task.data["asked_probs"]) == 10


def test_the_first_batch_is_asked_at_random_without_a_model(
    loop: Loop, project: OracleProject
) -> None:
    assert batches.top_up(loop) == 10
    task = next(iter(project.by_task.values()))
    assert (task.data["asked_by"], task.prediction) == ("random", None)
    assert task.data["hint"] == "asked before there was a model: no guess"
    assert project.model_version() == ""


def test_after_the_last_round_no_more_images_are_asked(loop: Loop, project: OracleProject) -> None:
    truth = true_labels(loop.pool)
    two_rounds = with_settings(loop, rounds=2)
    seed(loop, project)
    train(two_rounds)
    for expected_open in (10, 0):
        project.answer_open_tasks(truth)
        assert batches.top_up(with_settings(two_rounds, rounds=1)) == 0
        meta = train(two_rounds)
        assert project.counts().open == expected_open
    assert (meta.version, meta.labels) == ("r0003", 60)  # the final training, on all labels
    assert batches.top_up(two_rounds) == 0


def test_an_almost_exhausted_pool_asks_the_remaining_images_and_then_none(
    loop: Loop, project: OracleProject
) -> None:
    small = replace(
        loop,
        pool=replace(loop.pool, image_ids=loop.pool.image_ids[:15], images=loop.pool.images[:15]),
    )
    assert [batches.top_up(small)] == [10]
    project.answer_open_tasks(true_labels(loop.pool))
    assert batches.top_up(small) == 5
    project.answer_open_tasks(true_labels(loop.pool))
    assert batches.top_up(small) == 0


def test_a_task_pushed_twice_by_a_killed_push_is_deduplicated(
    loop: Loop, project: OracleProject
) -> None:
    batches.top_up(loop)
    twin = next(iter(project.by_task.values()))
    project.import_tasks([twin])
    batches.top_up(with_settings(loop, batch_size=12))
    ids = [task.image_id for task in project.by_task.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs_the_loop_and_the_queue_shows_its_order(
    loop: Loop, project: OracleProject, strategy: StrategyName
) -> None:
    own = with_settings(loop, strategy=strategy, train="head")
    seed(own, project, 210)  # beyond the early phase of auto
    meta = train(own)
    by_score = sorted(project.open_tasks(), key=lambda t: shown(project, t.task_id, meta).score)
    expected = "uncertain_clusters" if strategy == "auto" else strategy
    assert {project.by_task[t.task_id].data["asked_by"] for t in by_score} == {expected}
    scores = [shown(project, task.task_id, meta).score for task in by_score]
    assert len(scores) == 10
    assert 0 <= scores[0] <= scores[-1] <= 1
    assert [t.image_id for t in by_score] == asked(project, meta.version)
    project.answer_open_tasks(true_labels(loop.pool))
    train(own)
    ids = [task.image_id for task in project.by_task.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_neither_the_test_split_nor_hidden_labels_influence_a_choice(
    loop: Loop, tmp_path: Path, strategy: StrategyName
) -> None:
    truth = true_labels(loop.pool)
    labels_file = loop.pool.folder / "train_labels.npy"
    kept = labels_file.read_bytes()
    asked_images = []
    for is_changed in (False, True):
        test = loop.pool.test
        if is_changed:
            test = replace(test, images=255 - test.images[:], labels=test.labels[::-1].copy())
            np.save(labels_file, np.random.default_rng(1).permutation(np.load(labels_file)))
        project = OracleProject(loop.pool.classes)
        own = replace(
            loop,
            root=tmp_path / str(is_changed) / "p1",
            project=project,
            pool=replace(loop.pool, test=test),
        )
        data_dir = tmp_path / str(is_changed)
        own = with_settings(own, data_dir=data_dir, train="head", strategy=strategy)
        try:
            batches.top_up(with_settings(own, batch_size=205))
            project.answer_open_tasks(truth)
            train(own)
        finally:
            labels_file.write_bytes(kept)
        asked_images.append([task.image_id for task in project.by_task.values()])
    assert len(asked_images[0]) == 215
    assert asked_images[0] == asked_images[1]


def shown(project: OracleProject, task_id: int, meta: Meta) -> Prediction:
    return project.predictions[task_id][meta.version]


def test_with_pretrained_weights_and_no_labels_typical_images_come_first(
    loop: Loop, project: OracleProject, tmp_path: Path
) -> None:
    weights = tmp_path / "pretrained.pth"
    torch.save(resnet.build(5, None, seed=3).state_dict(), weights)
    own = with_settings(replace(loop, weights=str(weights)), strategy="auto")
    assert batches.top_up(own) == 10
    assert {task.data["asked_by"] for task in project.by_task.values()} == {"typiclust"}
    assert list((tmp_path / "embeddings").glob("*"))


def test_the_first_batch_of_a_large_pool_embeds_only_a_part_of_it(
    loop: Loop, project: OracleProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "NEW_CANDIDATES", 20)
    weights = tmp_path / "pretrained.pth"
    torch.save(resnet.build(5, None, seed=3).state_dict(), weights)
    own = with_settings(replace(loop, weights=str(weights)), strategy="typiclust")
    assert len(own.pool.image_ids) > 40
    assert batches.top_up(own) == 10
    (path,) = (tmp_path / "embeddings").glob("*")
    store = RowStore(LocalPlace(path), np.float16, 512)
    kept = store.open()
    assert kept is not None
    assert len(kept) == 20
    first = {task.image_id for task in project.by_task.values()}
    assert first < set(kept.image_ids)
    # The next batch comes from the same images, with ten new ones in place of those queried.
    project.answer_open_tasks(dict.fromkeys(first, "3"))
    assert batches.top_up(own) == 10
    grown = store.open()
    assert grown is not None
    assert len(grown) == 30
    # Once few images are missing, all of them are embedded.
    monkeypatch.setattr(embeddings, "NEW_CANDIDATES", len(own.pool.image_ids))
    project.answer_open_tasks(dict.fromkeys(own.pool.image_ids, "3"))
    batches.top_up(own)
    whole = store.open()
    assert whole is not None
    assert set(whole.image_ids) == set(own.pool.image_ids)


def test_without_pretrained_weights_the_first_batch_is_random(
    loop: Loop, project: OracleProject
) -> None:
    batches.top_up(with_settings(loop, strategy="auto"))
    assert {task.data["asked_by"] for task in project.by_task.values()} == {"random"}


# Attached projects, whose images have tasks from the beginning


def answer_predicted(loop: Loop, version: str, labels: Sequence[str] = ("3", "4")) -> None:
    """Annotate all open tasks with predictions of a version, in turn with these labels."""
    project = team_of(loop)
    for place, task_id in enumerate(project.predicted(version)):
        if not project.answers.get(task_id):
            project.answer(task_id, labels[place % len(labels)])


def test_the_first_batch_of_an_attached_project_comes_first_by_predictions_without_a_guess(
    attached: Loop,
) -> None:
    project = team_of(attached)
    assert batches.top_up(attached) == 10
    chosen = project.predicted("r0000")
    assert len(chosen) == 10
    assert {project.predictions[i]["r0000"].label for i in chosen} == {None}
    assert project.version == "r0000"
    assert attached.store.facts().ordered_by == "r0000"
    # Two of ten are from the validation sample; no task comes before them.
    of_sample = {int(image_id[3:]) for image_id in attached.pool.sample.image_ids[:2]}
    assert {project.predictions[i]["r0000"].score for i in of_sample} == {0.0}
    assert of_sample < set(chosen)
    assert attached.store.n_open() == 10
    assert attached.store.n_tasks() == 250
    assert batches.top_up(attached) == 0


def test_a_version_asks_the_least_confident_of_the_tasks_that_the_team_made(
    attached: Loop,
) -> None:
    project = team_of(attached)
    batches.top_up(attached)
    answer_predicted(attached, "r0000")
    meta = train(attached)
    chosen = project.predicted("r0001")
    assert len(chosen) == 10
    kept = model_outputs.load_pool_probs(attached.root, meta.version)
    assert kept is not None
    confidence = dict(zip(kept.image_ids, kept[:].max(axis=1).tolist(), strict=True))
    others = [f"ls-{i}" for i in chosen if f"ls-{i}" in confidence]
    left = confidence.keys() - {f"ls-{i}" for i in project.answers} - {*others}
    assert len(others) == 8
    assert max(confidence[i] for i in others) <= min(confidence[i] for i in left)
    assert project.version == "r0001"
    probs = attached.store.asked_probs(10)
    assert probs.keys() == {*others}
    assert probs[others[0]].max() == pytest.approx(confidence[others[0]], abs=1e-6)


def test_tasks_that_the_team_deleted_after_the_last_listing_are_not_asked(attached: Loop) -> None:
    project = team_of(attached)
    second = attached.pool.sample.image_ids[1]
    kept = {int(image_id[3:]) for image_id in (*attached.pool.image_ids[:4], second)}
    for task_id in set(project.by_task) - kept:
        project.delete_by_team(task_id)
    assert batches.top_up(attached) == 5
    assert set(project.predicted("r0000")) == kept


def test_predictions_that_a_killed_process_did_not_import_are_added_by_the_next_refresh(
    attached: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = team_of(attached)
    ordering.refresh_predictions(attached)  # with nothing to order yet
    assert not State(attached.store.facts(), is_attached=True).must_order
    with monkeypatch.context() as patch:
        patch.setattr(project, "import_predictions", project.refuse)
        with pytest.raises(AssertionError):
            batches.top_up(attached)
    facts = attached.store.facts()
    assert State(facts, is_attached=True).must_order
    ordering.refresh_predictions(attached)
    assert len(project.predicted("r0000")) == attached.store.n_open() == 10
    assert not State(attached.store.facts(), is_attached=True).must_order
    assert batches.top_up(attached) == 0


def test_two_people_at_work_have_five_images_each(loop: Loop, project: OracleProject) -> None:
    own = with_settings(loop, batch_size=4)
    assert batches.top_up(own) == 4
    for annotator, task in enumerate(project.open_tasks()[:3], start=1):
        project.answer(task.task_id, "3", annotator=annotator)
    assert batches.top_up(own) == 15
