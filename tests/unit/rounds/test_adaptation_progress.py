"""What runs now and how long it takes, what adapting brought, or why it does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.base.settings import load_settings
from backend.rounds.adaptation_progress import AdaptationProgress, adaptation_progress
from backend.store.bodies import Bodies
from backend.store.body_meta import PRETRAINED, BodyComparison
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from tests.unit.store.test_bodies import save_body
from tests.unit.store.test_registry import meta, record, save

NOW = 1_767_268_800.0
LARGE = {"pool_images": 45_000, "first_version_at": NOW - 60}
BEGUN = LARGE | {"adapt_began_at": NOW - 720, "adapt_spent_s": 720.0, "adapt_budget_s": 1800.0}
ADAPTED = {"pool_images": 45_000, "adapted_images": 45_000, "adapted_at": NOW - 60}
JOB = {
    "job": "adapt",
    "status": "started",
    "phase": "adapting the body",
    "done": 744,
    "total": 1800,
}
GAIN = BodyComparison(
    labels=240, validation_images=2000, accuracy_before=0.473, accuracy_after=0.581, p_value=0.001
)
TOLD = (
    "A head on a0001 is right on 58.1% of the 2,000 validation images, one on the pre-trained body "
    "on 47.3%, with the same 240 labels."
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = project_root(tmp_path, 7)
    write_record(root, record(7).model_copy(update={"weights": "imagenet"}))
    save(root, meta(1))
    Registry(root).promote("r0001")
    return root


def progress(
    root: Path, facts: dict[str, Any], *, job: dict[str, Any] | None = None, **settings: Any
) -> AdaptationProgress:
    if facts:
        ProjectStore(root).record(**facts)
    own = load_settings(_env_file=None, model_dir=root.parent, **settings)
    return adaptation_progress(own, root, job, NOW)


def test_switched_off_it_says_so_and_what_training_starts_from(root: Path) -> None:
    found = progress(root, LARGE, adapt="off")
    assert (found.setting, found.state, found.start) == ("off", "off", PRETRAINED)
    assert found.sentence == (
        "The body is not adapted to the pool, because `ADAPT=off` is set. Training runs start from "
        "the pre-trained body."
    )


def test_a_small_pool_is_told_what_it_lacks_and_how_to_adapt_it_nevertheless(root: Path) -> None:
    found = progress(root, {"pool_images": 1797})
    assert found.state == "too_few_images"
    assert found.sentence == (
        "The body is not adapted to the pool: `ADAPT=auto` needs 5,000 images, and the pool has "
        "1,797. To adapt it nevertheless, set `ADAPT` to a number of minutes. Training runs start "
        "from the pre-trained body."
    )
    nevertheless = progress(root, {}, adapt=2.5)
    assert (nevertheless.setting, nevertheless.state) == ("2.5", "waiting")
    assert "for at most 2.5 minutes" in nevertheless.sentence


def test_while_images_are_decoded_no_pool_is_called_too_small(root: Path) -> None:
    found = progress(root, {"pool_images": 272, "undecoded_images": 49_728})
    assert found.state == "waiting"
    assert "Once all images are decoded" in found.sentence


def test_once_nothing_is_queried_an_unfinished_adaptation_does_not_promise_to_continue(
    root: Path,
) -> None:
    found = progress(root, BEGUN, rounds=1)
    assert found.state == "paused"
    assert found.sentence == (
        "Adapting the body to the pool has stopped, because no more images will be queried."
    )


def test_a_body_is_not_denied_because_the_pool_has_grown_since(root: Path) -> None:
    save_body(root, comparison=GAIN)
    grown = LARGE | {"adapted_at": NOW - 9, "adapted_images": 30_000, "exhausted_at": NOW}
    assert progress(root, grown).sentence.startswith(
        "The body is not adapted to the pool again, because no more images will be queried."
    )


def test_a_failure_is_not_told_once_adapting_is_no_longer_due(root: Path) -> None:
    failed = {"pool_images": 1_000, "adapt_failures": 1, "adapt_error": "a full disk"}
    assert progress(root, failed, adapt=10.0).state == "failed"
    assert progress(root, {}).state == "too_few_images"


def test_before_the_first_version_it_waits(tmp_path: Path) -> None:
    root = project_root(tmp_path, 8)
    write_record(root, record(8))
    found = progress(root, {"pool_images": 45_000})
    assert found.state == "waiting"
    assert found.sentence == (
        "Once the first version is trained, the trainer adapts the body to the pool for at most 30 "
        "minutes. Labeling continues meanwhile."
    )
    assert (found.minutes_done, found.minutes_total, found.body) == (None, None, None)


@pytest.mark.parametrize(
    ("facts", "settings", "why"),
    [
        (LARGE, {}, "As soon as the trainer is free, it adapts the body"),
        (LARGE | {"undecoded_images": 9}, {}, "Once all images are decoded"),
        (LARGE | {"exhausted_at": NOW}, {}, "because no more images will be queried"),
        (LARGE, {"rounds": 1}, "because no more images will be queried"),
        ({}, {}, "Once all images are decoded"),  # they are not counted yet
        (
            LARGE | {"adapted_at": NOW - 9, "adapted_images": 30_000},
            {},
            "The pool has grown from 30,000 images to 45,000. As soon as the trainer is free",
        ),
    ],
)
def test_while_it_waits_it_says_what_for(
    root: Path, facts: dict[str, Any], settings: dict[str, Any], why: str
) -> None:
    found = progress(root, facts, **settings)
    assert found.state == "waiting"
    assert why in found.sentence


def test_while_it_runs_it_says_how_far_it_is_and_that_labeling_goes_on(root: Path) -> None:
    found = progress(root, BEGUN, job=JOB)
    assert found.state == "running"
    assert found.sentence == (
        "The trainer is adapting the body to the pool: 12 of at most 30 minutes are done. Labeling "
        "continues meanwhile. Full training runs wait for it, and heads learn the new annotations."
    )
    assert found.minutes_done == pytest.approx(12.4)
    assert found.minutes_total == 30


def test_before_a_running_job_reports_the_last_checkpoint_counts(root: Path) -> None:
    found = progress(root, BEGUN | {"adapt_budget_s": 900.0}, job={"job": "adapt"})
    assert (found.minutes_done, found.minutes_total) == (12, 15)


def test_at_the_end_of_a_run_the_body_is_being_compared(root: Path) -> None:
    found = progress(root, BEGUN, job=JOB | {"phase": "embedding the pool", "done": 9, "total": 99})
    assert "has adapted the body and now compares it (embedding the pool)." in found.sentence
    assert (found.minutes_done, found.minutes_total) == (12, 30)


@pytest.mark.parametrize(
    ("facts", "settings", "rule"),
    [
        (BEGUN, {"train": "full"}, "Training runs come first."),
        (BEGUN | {"adapted_at": NOW - 900}, {}, "Training runs come first."),
        (
            BEGUN | {"first_version_at": NOW - 1800},
            {},
            "Full training runs take turns with it.",
        ),
        (
            BEGUN | {"adapt_failures": 3, "failed_at": {"adapt": NOW - 90_000}},
            {},
            "Training runs come first. Training runs start from the pre-trained body.",
        ),
    ],
)
def test_while_it_runs_it_says_whether_training_waits(
    root: Path, facts: dict[str, Any], settings: dict[str, Any], rule: str
) -> None:
    assert progress(root, facts, job=JOB, **settings).sentence.endswith(rule)


def test_a_paused_adaptation_says_what_it_waits_for(root: Path) -> None:
    found = progress(root, BEGUN)
    assert found.state == "paused"
    assert found.sentence.startswith(
        "Adapting the body to the pool is paused after 12 of at most 30 minutes. It continues"
    )
    assert (found.minutes_done, found.minutes_total) == (12, 30)


def test_after_an_outage_a_paused_adaptation_says_when_it_continues(root: Path) -> None:
    assert progress(root, BEGUN | {"failed_at": {"adapt": NOW - 420}}).sentence == (
        "Adapting the body to the pool is paused after 12 of at most 30 minutes. An error "
        "interrupted it, so it continues in 3 minutes."
    )


def test_a_body_that_became_the_start_is_told_with_both_accuracies(root: Path) -> None:
    save_body(root, comparison=GAIN)
    Bodies(root).set_start("a0001", by="loop")
    found = progress(root, ADAPTED)
    assert (found.state, found.body, found.start) == ("done", "a0001", "a0001")
    assert (found.labels, found.accuracy_before, found.accuracy_after) == (240, 0.473, 0.581)
    assert found.sentence == (
        f"Training runs start from a0001, the body adapted to the pool. {TOLD}"
    )
    assert found.minutes_done is None


def test_with_adapting_switched_off_later_the_start_is_still_told(root: Path) -> None:
    save_body(root, comparison=GAIN)
    Bodies(root).set_start("a0001", by="loop")
    found = progress(root, ADAPTED, adapt="off")
    assert found.sentence == (
        "The body is not adapted to the pool, because `ADAPT=off` is set. Training runs start from "
        f"a0001, the body adapted to the pool. {TOLD}"
    )


def test_a_slightly_worse_body_is_said_to_be_within_chance(root: Path) -> None:
    comparison = GAIN.model_copy(update={"accuracy_after": 0.47, "p_value": 0.4})
    save_body(root, comparison=comparison)
    Bodies(root).set_start("a0001", by="loop")
    assert progress(root, ADAPTED).sentence.endswith("The difference is within chance.")


def test_a_body_that_could_not_be_compared_says_so(root: Path) -> None:
    save_body(root, comparison=None)
    Bodies(root).set_start("a0001", by="loop")
    found = progress(root, ADAPTED)
    assert found.sentence == (
        "Training runs start from a0001, the body adapted to the pool. Too few validation images "
        "were labeled to compare it with the pre-trained body."
    )
    assert found.accuracy_after is None


def test_a_refused_body_says_what_training_starts_from_and_how_to_use_it(root: Path) -> None:
    comparison = GAIN.model_copy(update={"accuracy_after": 0.401})
    save_body(root, comparison=comparison, refused="significantly worse")
    found = progress(root, ADAPTED)
    assert (found.start, found.refused) == (PRETRAINED, "significantly worse")
    assert found.sentence == (
        "a0001, the body adapted to the pool, was refused, so training runs start from the "
        f"pre-trained body. {TOLD.replace('58.1', '40.1')} To use it nevertheless, run `python -m "
        "scripts.models start a0001`."
    )


def test_a_start_that_a_person_chose_is_told_as_such(root: Path) -> None:
    save_body(root, comparison=GAIN)
    Bodies(root).set_start("a0001", by="person")
    assert "from a0001, the body adapted to the pool, as a person chose." in (
        progress(root, ADAPTED).sentence
    )
    Bodies(root).set_start(PRETRAINED, by="person")
    assert progress(root, {}).sentence == (
        f"Training runs start from the pre-trained body, as a person chose, and not from a0001. "
        f"{TOLD}"
    )


def test_without_pre_trained_weights_the_other_body_is_called_untrained(root: Path) -> None:
    write_record(root, record(7).model_copy(update={"weights": "none"}))
    save_body(root, comparison=GAIN)
    assert "one on an untrained body on 47.3%" in progress(root, ADAPTED).sentence


def test_a_start_that_cannot_be_used_is_named_with_its_fault(root: Path) -> None:
    save_body(root, comparison=GAIN)
    Bodies(root).set_start("a0001", by="loop")
    (root / "a0001/model.safetensors").unlink()
    found = progress(root, ADAPTED)
    assert found.start == PRETRAINED
    assert found.sentence.startswith(
        "The body was adapted to the pool. Training runs start from the pre-trained body. The "
        "chosen start cannot be used: a0001"
    )


def test_a_failure_says_why_and_that_it_is_tried_again(root: Path) -> None:
    failed = BEGUN | {"adapt_failures": 1, "adapt_error": "the disk is full", "failed_at": {}}
    found = progress(root, failed)
    assert found.state == "failed"
    assert found.sentence == (
        "Adapting the body failed: the disk is full. It is tried again within 10 minutes. Labeling "
        "continues meanwhile."
    )
    assert progress(root, {}, job=JOB).state == "running"


def test_after_three_failures_training_no_longer_waits(root: Path) -> None:
    failed = BEGUN | {"adapt_failures": 3, "adapt_error": "out of memory: set DEVICE=cpu."}
    assert progress(root, failed).sentence == (
        "Adapting the body failed 3 times: out of memory: set DEVICE=cpu. It is tried once a day; "
        "training runs no longer wait for it. To stop it, set `ADAPT=off`. Training runs start "
        "from the pre-trained body."
    )


def test_a_failure_while_the_pool_is_adapted_to_again_still_tells_the_last_gain(root: Path) -> None:
    save_body(root, comparison=GAIN)
    Bodies(root).set_start("a0001", by="loop")
    found = progress(root, BEGUN | {"adapted_at": NOW - 900, "adapt_failures": 3})
    assert found.sentence.endswith(TOLD)
    assert found.sentence.startswith("Adapting the body failed 3 times: see the trainer log.")
