"""Decide what is due for a project: a table of states, steps and the time of the next look."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from backend.base.settings import Settings
from backend.people.validation_labels import Outcome
from backend.rounds import adapting_rule
from backend.rounds.decide import (
    RETRY_AFTER_S,
    Decision,
    RankStep,
    State,
    TrainStep,
    batch_is_due,
    batch_size,
    decide,
    is_listing_due,
)
from backend.rounds.finish_reading import FinishReading
from backend.store.finish_store import FinishTry
from backend.store.project_rows import Facts

NOON = 1_700_000_000.0
NEVER = math.inf
SETTINGS = Settings.model_construct(
    batch_size=20, retrain_after=3, retrain_wait_s=60, rescan_every_s=600
)
# Read 100 s ago and trained on; a batch is open, in the order of the version in service.
FACTS = frozenset(Facts.model_fields)
AT_REST = State(
    Facts(
        read_at=NOON - 100,
        trained_at=NOON - 1000,
        ordered_by="r0001",
        finish_outlook_of="r0001",
    ),
    n_open=20,
    in_service="r0001",
    rounds_done=1,
)


@dataclass(frozen=True)
class Case:
    """Times in `state` and `look_in` are in seconds from NOON: -10 is ten seconds ago."""

    claim: str
    state: Mapping[str, Any]
    train: str | None = None
    rank: str | None = None
    look_in: float = NEVER
    settings: Mapping[str, Any] = field(default_factory=dict)


def moments(**state: Any) -> dict[str, Any]:
    """Convert seconds from NOON to seconds since the epoch."""
    return {
        name: {step: NOON + ago for step, ago in value.items()}
        if name == "failed_at"
        else NOON + value
        if name.endswith("_at")
        else value
        for name, value in state.items()
    }


def at_rest(**changes: Any) -> State:
    """Return AT_REST with changed facts (a request for training is also one) or other fields."""
    changed = moments(**changes)
    facts = {name: changed[name] for name in changed.keys() & FACTS}
    others = {name: changed[name] for name in changed.keys() & vars(AT_REST).keys()}
    assert facts.keys() | others.keys() == changed.keys()
    return replace(AT_REST, facts=AT_REST.facts.model_copy(update=facts), **others)


def never_read(**changes: Any) -> dict[str, Any]:
    """Return the changes to AT_REST for a project that was just set up."""
    return {"read_at": -NOON, "n_open": 0, "in_service": "", "ordered_by": "", **changes}


def of_folder(**changes: Any) -> dict[str, Any]:
    """Return the changes to AT_REST for a pool that may change, which was listed 500 s ago."""
    return {"may_pool_change": True, "rescanned_at": -500, **changes}


def sample(
    *,
    n_right: int = 0,
    n_errors: int = 0,
    n_open: int = 0,
    unasked: int = 0,
    must_ask: bool = False,
) -> FinishReading:
    """Return how far an acceptance sample of 30 images is, in which no error is allowed."""
    current = FinishTry(1, NOON, "r0001", 0.1, 0.025, 0.9, 300, 30, 0, 900)
    outcome = Outcome("pending", reopen_for=2 if must_ask else 0)
    images = tuple(f"i{n}" for n in range(unasked))
    return FinishReading(current, n_right, n_errors, {7: outcome}, n_open, images)


def of_large_pool(**changes: Any) -> dict[str, Any]:
    """Return the changes to AT_REST for 5,000 images, two minutes after the first version.

    The last training run took 20 seconds.
    """
    return {
        "pool_images": 5000,
        "first_version_at": -120,
        "trained_at": -140,
        "training_ended_at": -120,
        **changes,
    }


CASES = (
    Case(
        "nothing is due while Label Studio does not have the project",
        {"gone": "it is gone", "read_at": 0, "train_asked_at": -1, "export_asked_at": -1},
    ),
    Case("nothing is due at rest", {}),
    # A training
    Case("the third of three new annotations is trained at once",
         {"n_new": 3, "first_new_at": 0}, train="retrain"),
    Case("two of three new annotations wait for the third, or until the first is a minute old",
         {"n_new": 2, "first_new_at": -10}, look_in=50),
    Case("a first new annotation waits a minute",
         {"n_new": 1, "first_new_at": 0}, look_in=60),
    Case("half a second before its minute is over it still waits",
         {"n_new": 1, "first_new_at": -59.5}, look_in=0.5),
    Case("a first new annotation is trained when its minute is over",
         {"n_new": 1, "first_new_at": -60}, train="retrain"),
    Case("19 of 20 new annotations wait",
         {"n_new": 19, "first_new_at": -59}, look_in=1, settings={"retrain_after": 20}),
    Case("20 of 20 new annotations do not",
         {"n_new": 20, "first_new_at": 0}, train="retrain", settings={"retrain_after": 20}),
    Case("without a new annotation no training is due, however long ago the first one was",
         {"n_new": 0, "first_new_at": -9999}),
    Case("with RETRAIN_WAIT=0 the first new annotation is trained at once",
         {"n_new": 1, "first_new_at": 0}, train="retrain", settings={"retrain_wait_s": 0.0}),
    # A person asks for one
    Case("a person who asks for a training gets it at once, with nothing new",
         {"train_asked_at": 0}, train="retrain"),
    Case("a training that began after a person asked serves the request",
         {"train_asked_at": -10, "trained_at": -9}),
    Case("so has one that began at that very moment",
         {"train_asked_at": -10, "trained_at": -10}),
    Case("a training that had begun when a person asked has not",
         {"train_asked_at": -9, "trained_at": -10}, train="retrain"),
    Case("a person who asks before anything was read gets a training, which reads",
         never_read(train_asked_at=-1), train="retrain", rank="read"),
    # After a failure
    Case("after a failure enough new annotations wait half a minute",
         {"n_new": 3, "first_new_at": -70, "failed_at": {"retrain": -29}}, look_in=1),
    Case("half a minute after a failure they are tried again",
         {"n_new": 3, "first_new_at": -70, "failed_at": {"retrain": -30}}, train="retrain"),
    Case("a person whose training failed waits for its next try",
         {"train_asked_at": -30, "failed_at": {"retrain": -20}}, look_in=10),
    Case("a person whose training failed half a minute ago gets its next try",
         {"train_asked_at": -90, "failed_at": {"retrain": -30}}, train="retrain"),
    Case("a person who asks again after a failure waits for nothing",
         {"train_asked_at": -10, "failed_at": {"retrain": -20}}, train="retrain"),
    Case("a first new annotation waits for its own minute if that is the later one",
         {"n_new": 1, "first_new_at": -10, "failed_at": {"retrain": -30}}, look_in=50),
    Case("a first new annotation waits for the failure's half minute if that is the later one",
         {"n_new": 1, "first_new_at": -55, "failed_at": {"retrain": -10}}, look_in=20),
    Case("a training that could not read Label Studio waits half a minute while nobody could",
         {"n_new": 3, "first_new_at": -70, "failed_at": {"retrain": -20}, "unread_at": -20},
         look_in=10),
    Case("as soon as the clock could read, so can a training",
         {"n_new": 3, "first_new_at": -70, "failed_at": {"retrain": -20}, "unread_at": -20,
          "read_at": -1}, train="retrain"),
    Case("training that a person requested waits no longer either",
         {"train_asked_at": -30, "failed_at": {"retrain": -20}, "unread_at": -20, "read_at": -1},
         train="retrain"),
    Case("a training run that failed for another reason waits although the clock could read",
         {"n_new": 3, "first_new_at": -70, "failed_at": {"retrain": -20}, "unread_at": -90,
          "read_at": -1}, look_in=10),
    # Adapting the body
    Case("the body is adapted to a pool of 5,000 images",
         of_large_pool(), train="adapt"),
    Case("it is not adapted to 4,999 images",
         of_large_pool(pool_images=4999)),
    Case("a person who sets ADAPT=10 adapts to a pool of any size",
         of_large_pool(pool_images=50), train="adapt", settings={"adapt": 10.0}),
    Case("before the pool was counted nothing is adapted",
         of_large_pool(pool_images=0), settings={"adapt": 10.0}),
    Case("with ADAPT=off nothing is adapted",
         of_large_pool(), settings={"adapt": "off"}),
    Case("with TRAIN=full and with TRAIN=head the body is adapted as well",
         of_large_pool(), train="adapt", settings={"train": "head"}),
    Case("before the first version nothing is adapted",
         of_large_pool(in_service="", ordered_by="")),
    Case("while images wait to be decoded nothing is adapted",
         of_large_pool(undecoded_images=1)),
    Case("after the last round nothing is adapted",
         of_large_pool(rounds_done=3), settings={"rounds": 3}),
    Case("before the last round the body is adapted",
         of_large_pool(rounds_done=2), train="adapt", settings={"rounds": 3}),
    Case("once no image is left to query nothing is adapted",
         of_large_pool(exhausted_at=-10)),
    Case("a rescan comes before adapting the body",
         of_folder(rescanned_at=-600, **of_large_pool()), train="rescan"),
    Case("training waits for the first adaptation half an hour after the first version",
         of_large_pool(n_new=3, first_new_at=0), train="adapt", look_in=1680),
    Case("with ADAPT=10 it waits ten minutes",
         of_large_pool(n_new=3, first_new_at=0), train="adapt", look_in=480,
         settings={"adapt": 10.0}),
    Case("meanwhile heads are fitted",
         of_large_pool(n_new=3, first_new_at=0, revision=8, head_revision=7, head_fitted_at=-9),
         train="adapt", rank="refit", look_in=1680),
    Case("after that half hour training no longer waits",
         of_large_pool(first_version_at=-1800, n_new=3, first_new_at=0), train="retrain"),
    Case("after it the adaptation gets a turn as long as the last training run took",
         of_large_pool(first_version_at=-1800, trained_at=-70, training_ended_at=-30,
                       n_new=3, first_new_at=0), train="adapt", look_in=10),
    Case("then it is the turn of training",
         of_large_pool(first_version_at=-1800, trained_at=-80, training_ended_at=-40,
                       n_new=3, first_new_at=0), train="retrain"),
    Case("if less is left than the last training run took, training waits for the end",
         of_large_pool(first_version_at=-1800, adapt_began_at=-1790, adapt_spent_s=1780.0,
                       adapt_budget_s=1800.0, n_new=3, first_new_at=0), train="adapt"),
    Case("if more is left, training does not wait",
         of_large_pool(first_version_at=-1800, adapt_began_at=-1790, adapt_spent_s=1779.0,
                       adapt_budget_s=1800.0, n_new=3, first_new_at=0), train="retrain"),
    Case("training that a person requested waits for nothing",
         of_large_pool(train_asked_at=0), train="retrain"),
    Case("with TRAIN=full nothing waits",
         of_large_pool(n_new=3, first_new_at=0), train="retrain", settings={"train": "full"}),
    Case("with ADAPT=off nothing waits",
         of_large_pool(n_new=3, first_new_at=0), train="retrain", settings={"adapt": "off"}),
    Case("a pool that did not grow by a fifth since it was adapted to is left alone",
         of_large_pool(adapted_at=-60, adapted_images=5000, pool_images=5999)),
    Case("a pool that grew by a fifth is adapted to again",
         of_large_pool(adapted_at=-60, adapted_images=5000, pool_images=6000), train="adapt"),
    Case("for a later adaptation no training waits",
         of_large_pool(adapted_at=-60, adapted_images=5000, pool_images=6000,
                       n_new=3, first_new_at=0), train="retrain"),
    Case("a new start is trained from at once",
         of_large_pool(adapted_at=-60, adapted_images=5000, start_changed_at=-60),
         train="retrain"),
    Case("a training run that began after the start has changed used it",
         of_large_pool(adapted_at=-60, adapted_images=5000, start_changed_at=-60,
                       trained_at=-60)),
    Case("after a failure with a new start training waits half a minute",
         of_large_pool(adapted_at=-60, adapted_images=5000, start_changed_at=-60,
                       failed_at={"retrain": -20}), look_in=10),
    Case("before the first version a new start trains nothing",
         never_read(start_changed_at=-60), rank="read"),
    Case("a failed adaptation is tried again after ten minutes",
         of_large_pool(failed_at={"adapt": -599}, adapt_failures=1), look_in=1),
    Case("then it is tried",
         of_large_pool(failed_at={"adapt": -600}, adapt_failures=2), train="adapt"),
    Case("until then no training waits for it",
         of_large_pool(failed_at={"adapt": -599}, adapt_failures=1, n_new=3, first_new_at=0),
         train="retrain", look_in=1),
    Case("after three failures it is tried again the next day",
         of_large_pool(failed_at={"adapt": -600}, adapt_failures=3), look_in=85_800),
    Case("after three failures no training waits for it",
         of_large_pool(failed_at={"adapt": -90_000}, adapt_failures=3, n_new=3, first_new_at=0),
         train="retrain"),
    # A rescan
    Case("a folder is listed again ten minutes after the last time",
         of_folder(), look_in=100),
    Case("when the ten minutes are over it is listed",
         of_folder(rescanned_at=-600), train="rescan"),
    Case("with RESCAN_EVERY=60 it is listed every minute",
         of_folder(rescanned_at=-50), look_in=10, settings={"rescan_every_s": 60.0}),
    Case("a folder that was never listed, as before an update, is listed at once",
         of_folder(rescanned_at=-NOON), train="rescan"),
    Case("CIFAR-10 and the digits are never listed, even if a person asks",
         {"rescan_asked_at": -1, "undecoded_images": 5}),
    Case("a person who asks for new images gets them at once",
         of_folder(rescan_asked_at=0), train="rescan"),
    Case("a rescan that began after a person asked serves the request",
         of_folder(rescan_asked_at=-501), look_in=100),
    Case("images that wait to be decoded are decoded at once",
         of_folder(rescanned_at=-1, decoded_at=-1, undecoded_images=1), train="rescan"),
    Case("training comes before a rescan",
         of_folder(rescanned_at=-600, n_new=3, first_new_at=0), train="retrain"),
    Case("training that was requested does so as well",
         of_folder(rescanned_at=-600, train_asked_at=0), train="retrain"),
    Case("a rescan that was due before the last training run began comes before the next",
         of_folder(rescanned_at=-700, trained_at=-99, n_new=3, first_new_at=0), train="rescan"),
    Case("a rescan that became due during that run does not",
         of_folder(rescanned_at=-700, trained_at=-101, n_new=3, first_new_at=0), train="retrain"),
    Case("between two training runs, waiting images are decoded",
         of_folder(undecoded_images=1, decoded_at=-301, trained_at=-300, n_new=3, first_new_at=0),
         train="rescan"),
    Case("but after that, training comes first",
         of_folder(undecoded_images=1, decoded_at=-300, trained_at=-301, n_new=3, first_new_at=0),
         train="retrain"),
    Case("an attached project's new tasks join the pool at once",
         of_folder(tasks_revision=3, listed_revision=2), train="rescan"),
    Case("but not more often than every ten seconds",
         of_folder(tasks_revision=3, listed_revision=2, rescanned_at=-4), look_in=6),
    Case("new tasks do not postpone a training for which enough annotations are there",
         of_folder(tasks_revision=3, listed_revision=2, rescanned_at=-30, trained_at=-25,
                   n_new=3, first_new_at=0),
         train="retrain"),
    Case("but join the pool before the next one",
         of_folder(tasks_revision=3, listed_revision=2, rescanned_at=-50, trained_at=-25,
                   n_new=3, first_new_at=0),
         train="rescan"),
    Case("a rescan is due while training waits for its next try",
         of_folder(rescanned_at=-600, n_new=3, first_new_at=0, failed_at={"retrain": -1}),
         train="rescan", look_in=29),
    Case("a rescan that failed is tried again after half a minute",
         of_folder(rescanned_at=-700, failed_at={"rescan": -29}), look_in=1),
    Case("so is decoding",
         of_folder(undecoded_images=1, failed_at={"rescan": -29}), look_in=1),
    Case("a person whose rescan failed waits for its next try",
         of_folder(rescan_asked_at=-30, failed_at={"rescan": -20}), look_in=10),
    Case("a person who asks again after it failed waits for nothing",
         of_folder(rescan_asked_at=-10, failed_at={"rescan": -20}), train="rescan"),
    Case("a rescan and seconds-long work are due side by side",
         of_folder(rescanned_at=-600, n_open=0), train="rescan", rank="top_up"),
    # Reading
    Case("a project that was never read is read first",
         never_read(), rank="read"),
    Case("it is read even before what else is due",
         never_read(in_service="r0001", revision=1, review_project=8), rank="read"),
    Case("while it cannot be read no images are asked, since the open tasks are unknown",
         never_read(failed_at={"read": -1}), look_in=9),
    Case("nor are second opinions asked, whatever OVERLAP is",
         never_read(failed_at={"read": -1}, revision=1), look_in=9, settings={"overlap": "2"}),
    Case("a change that a webhook announced is read",
         {"hinted_at": -1}, rank="read"),
    Case("one that came at the very moment when a reading began is read again",
         {"hinted_at": -10, "read_at": -10}, rank="read"),
    Case("one that came before the last reading was read by it",
         {"hinted_at": -11, "read_at": -10}),
    Case("a project is read at most every two seconds",
         {"hinted_at": -1, "read_at": -1.5}, look_in=0.5),
    Case("two seconds after the last reading it is read again",
         {"hinted_at": -1, "read_at": -2}, rank="read"),
    Case("a reading that failed is tried again after ten seconds",
         {"hinted_at": -20, "failed_at": {"read": -4}}, look_in=6),
    # The order of the open tasks
    Case("open tasks are re-ordered by a new version in service",
         {"in_service": "r0002"}, rank="refresh"),
    Case("open tasks are re-ordered by an older version that was put back in service",
         {"ordered_by": "r0002"}, rank="refresh"),
    Case("open tasks that no version has ordered are ordered",
         {"ordered_by": ""}, rank="refresh"),
    Case("without a version in service there is nothing to order by",
         {"in_service": ""}),
    Case("in an attached project images come first even before there is a version",
         {"in_service": "", "ordered_by": "", "is_attached": True}, rank="refresh"),
    Case("and likewise if people have added open tasks to our own project",
         {"in_service": "", "ordered_by": "", "has_foreign_open": True}, rank="refresh"),
    Case("and are not ordered twice",
         {"in_service": "", "ordered_by": "r0000", "is_attached": True}),
    Case("four people keep 20 images open",
         {"n_at_work": 4, "n_open": 20}),
    Case("five people keep 25 images open",
         {"n_at_work": 5, "n_open": 24}, rank="top_up"),
    Case("a re-ordering that failed is tried again after ten seconds",
         {"in_service": "r0002", "failed_at": {"refresh": -9}}, look_in=1),
    # Asking images
    Case("images are asked when fewer are open than a batch",
         {"n_open": 19}, rank="top_up"),
    Case("images are asked before there is a version",
         {"n_open": 0, "in_service": "", "ordered_by": "", "rounds_done": 0}, rank="top_up"),
    Case("images are asked while a round is left",
         {"n_open": 0, "rounds_done": 2}, rank="top_up", settings={"rounds": 3}),
    Case("no images are asked when all rounds are done",
         {"n_open": 0, "rounds_done": 3}, settings={"rounds": 3}),
    Case("an exhausted pool is not looked at again at once",
         {"n_open": 0, "exhausted_at": -20}, look_in=40),
    Case("an exhausted pool is looked at again after a minute",
         {"n_open": 0, "exhausted_at": -60}, rank="top_up"),
    Case("asking that failed is tried again after ten seconds",
         {"n_open": 0, "failed_at": {"top_up": -3}}, look_in=7),
    *(
        Case(f"with OVERLAP={overlap} annotated images are looked at after every change",
             {"revision": 8, "looked_for_again": 7, "head_revision": 8}, rank="top_up",
             settings={"overlap": overlap})
        for overlap in ("2", "3")
    ),
    Case("with OVERLAP=2 they are looked at once after a change",
         {"revision": 8, "looked_for_again": 8, "head_revision": 8}, settings={"overlap": "2"}),
    Case("with OVERLAP=2 they are looked at also when pool and rounds are at their end",
         {"revision": 8, "looked_for_again": 7, "head_revision": 8, "n_open": 0,
          "exhausted_at": -1, "rounds_done": 3},
         rank="top_up", settings={"overlap": "2", "rounds": 3}),
    *(
        Case(f"with OVERLAP={overlap} a change alone asks nothing again",
             {"revision": 8, "looked_for_again": 0, "head_revision": 8},
             settings={"overlap": overlap})
        for overlap in ("auto", "1")
    ),
    Case("a validation image that no one can answer is asked again at the end of pool and rounds",
         {"n_open": 20, "must_ask_sample": True, "exhausted_at": -1, "rounds_done": 3},
         rank="top_up", settings={"rounds": 3}),
    Case("the tasks of an attached project are not reopened for it",
         {"must_ask_sample": True, "is_attached": True}),
    Case("unless OVERLAP is set",
         {"must_ask_sample": True, "is_attached": True}, rank="top_up",
         settings={"overlap": "2"}),
    # A head
    Case("a changed annotation makes a head due",
         {"revision": 8, "head_revision": 7, "head_fitted_at": -5}, rank="refit"),
    Case("a head is fitted at most every five seconds",
         {"revision": 8, "head_revision": 7, "head_fitted_at": -2}, look_in=3),
    Case("what the last head or training knows needs no head",
         {"revision": 8, "head_revision": 8, "head_fitted_at": -999}),
    Case("with TRAIN=full there is no head",
         {"revision": 8, "head_revision": 7}, settings={"train": "full"}),
    Case("with TRAIN=head there is one",
         {"revision": 8, "head_revision": 7}, rank="refit", settings={"train": "head"}),
    Case("without a version in service there is no body for a head",
         {"revision": 8, "head_revision": 7, "in_service": "", "ordered_by": ""}),
    Case("a head that failed is tried again after half a minute",
         {"revision": 8, "head_revision": 7, "failed_at": {"refit": -20}}, look_in=10),
    # Reviews
    Case("reviews are collected once a minute",
         {"review_project": 8, "reviews_read_at": -60}, rank="collect_reviews"),
    Case("and no more often",
         {"review_project": 8, "reviews_read_at": -59}, look_in=1),
    Case("without a review project there are none",
         {"review_project": None, "reviews_read_at": -999}),
    Case("collecting that failed is tried again after a minute",
         {"review_project": 8, "reviews_read_at": -90, "failed_at": {"collect_reviews": -30}},
         look_in=30),
    # The model labels the rest
    Case("what a new version could label is found out once people have its order",
         {"finish_outlook_of": "", "finish_outlook_at": -30}, rank="finish"),
    Case("but at most every thirty seconds",
         {"finish_outlook_of": "r0001h04", "finish_outlook_at": -10}, look_in=20),
    Case("people get images and a head is fitted before that",
         {"finish_outlook_of": "", "n_open": 0}, rank="top_up"),
    Case("without a version there is nothing to find out",
         {"in_service": "", "ordered_by": "", "finish_outlook_of": ""}),
    Case("a try that a person asked for begins before anything is queried",
         {"finish_wanted": 0.02, "n_open": 0}, rank="finish"),
    Case("but only once the annotations have been read",
         never_read(finish_wanted=0.02), rank="read"),
    Case("a try that could not begin is not tried again before ten seconds",
         {"finish_wanted": 0.02, "failed_at": {"finish": -4}}, look_in=6),
    Case("the next images of the acceptance sample are queried while fewer than a batch are open",
         {"acceptance": sample(n_open=19, unasked=5)}, rank="top_up"),
    Case("also when all rounds are done",
         {"acceptance": sample(n_open=0, unasked=5), "rounds_done": 3}, rank="top_up",
         settings={"rounds": 3}),
    Case("but not while a batch of the sample is open",
         {"acceptance": sample(n_open=20, unasked=5)}),
    Case("and not when all of the sample has been queried",
         {"acceptance": sample(n_open=0, unasked=0)}),
    Case("images of the sample that cannot be queried yet are tried again after a minute",
         {"acceptance": sample(n_open=0, unasked=5), "exhausted_at": -20}, look_in=40),
    Case("a sample with too many errors is judged at once",
         {"acceptance": sample(n_errors=1), "revision": 8, "head_revision": 8}, rank="finish"),
    Case("and nothing more of it is queried before that",
         {"acceptance": sample(n_errors=1, unasked=5), "revision": 8, "head_revision": 8,
          "failed_at": {"finish": -4}}, look_in=6),
    Case("so is a complete sample",
         {"acceptance": sample(n_right=30), "revision": 8, "head_revision": 8}, rank="finish"),
    Case("a seeming error is shown to another person",
         {"acceptance": sample(must_ask=True), "revision": 8, "head_revision": 8}, rank="finish"),
    Case("once for each change",
         {"acceptance": sample(must_ask=True), "revision": 8, "head_revision": 8,
          "finish_checked": 8}),
    Case("a label of the sample that settles nothing is only counted",
         {"acceptance": sample(n_right=12), "revision": 8, "head_revision": 8}),
    # An export
    Case("an export that a person requested is written once",
         {"export_asked_at": -5, "exported_at": -9}, rank="export"),
    Case("and not again until a person requests another",
         {"export_asked_at": -5, "exported_at": -5}),
    Case("an export that failed is tried again after a minute",
         {"export_asked_at": -50, "exported_at": -90, "failed_at": {"export": -20}}, look_in=40),
    Case("people get new images before an export is written",
         {"n_open": 0, "export_asked_at": -5}, rank="top_up"),
    # What comes first
    Case("a change is read before anything else is done",
         {"hinted_at": -1, "in_service": "r0002", "n_open": 0, "revision": 1}, rank="read"),
    Case("people get a new version's order before new images",
         {"in_service": "r0002", "n_open": 0, "revision": 1}, rank="refresh"),
    Case("people who have nothing to label get images before a head is fitted",
         {"n_open": 0, "revision": 1}, rank="top_up"),
    Case("as long as they have something, a head comes first",
         {"n_open": 1, "revision": 1}, rank="refit"),
    Case("reviews come last",
         {"n_open": 19, "review_project": 8}, rank="top_up"),
    Case("a training and seconds-long work are due side by side",
         {"n_new": 3, "first_new_at": 0, "revision": 1}, train="retrain", rank="refit"),
    # A failure is its own step's alone
    Case("a re-ordering that failed does not keep a head from being fitted",
         {"in_service": "r0002", "revision": 1, "failed_at": {"refresh": -1}},
         rank="refit", look_in=9),
    Case("a reading that failed does not keep images from being asked",
         {"hinted_at": -50, "n_open": 0, "failed_at": {"read": -1}}, rank="top_up", look_in=9),
    Case("a training that failed does not keep a head from being fitted",
         {"n_new": 3, "first_new_at": 0, "revision": 1, "failed_at": {"retrain": -1}},
         rank="refit", look_in=29),
    Case("a reading that failed does not keep a training from beginning",
         {"n_new": 3, "first_new_at": 0, "hinted_at": -50, "failed_at": {"read": -1}},
         train="retrain", look_in=9),
    Case("a failure of a step that is not due changes nothing",
         {"failed_at": {"retrain": -1, "refit": -1}}),
    # When to look again
    Case("the next look is at the first moment when anything is due: here a training",
         {"n_new": 1, "first_new_at": -50, "review_project": 8, "reviews_read_at": -30},
         look_in=10),
    Case("the next look is at the first moment when anything is due: here reviews",
         {"n_new": 1, "first_new_at": 0, "review_project": 8, "reviews_read_at": -30},
         look_in=30),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.claim)
def test_what_is_due(case: Case) -> None:
    state = at_rest(**case.state)
    expected = Decision(case.train, case.rank, NOON + case.look_in)  # type: ignore[arg-type]
    assert decide(state, SETTINGS.model_copy(update=case.settings), NOON) == expected


@pytest.mark.parametrize(
    ("n_open", "rounds_done", "rounds", "is_due"),
    [
        (19, 5, 0, True),  # fewer open than a batch
        (20, 5, 0, False),
        (0, 2, 3, True),  # one round left
        (0, 3, 3, False),  # all rounds done
    ],
)
def test_a_batch_is_due_while_people_may_run_out_and_rounds_are_left(
    n_open: int, rounds_done: int, rounds: int, is_due: bool
) -> None:
    settings = SETTINGS.model_copy(update={"rounds": rounds})
    assert batch_is_due(settings, 20, n_open, rounds_done) is is_due


@pytest.mark.parametrize(("n_at_work", "size"), [(0, 8), (1, 8), (2, 10), (3, 15), (30, 150)])
def test_a_batch_has_five_images_per_person_if_several_annotate_at_once(
    n_at_work: int, size: int
) -> None:
    assert batch_size(SETTINGS.model_copy(update={"batch_size": 8}), n_at_work) == size


def test_a_new_version_asks_its_batch_if_that_leaves_at_most_two_open() -> None:
    assert batch_is_due(SETTINGS, 20, 20, 1, is_new_version=True)
    assert not batch_is_due(SETTINGS, 20, 21, 1, is_new_version=True)


def test_every_step_has_a_retry_delay() -> None:
    with_own_rule = {"adapt"}  # adapting_rule.retry_at
    assert set(RETRY_AFTER_S) | with_own_rule == {*get_args(TrainStep), *get_args(RankStep)}


@pytest.mark.parametrize(
    ("changes", "is_due"),
    [
        ({"undecoded_images": 7}, False),  # those are decoded without listing the folder again
        ({"rescanned_at": -600}, True),
        ({"rescan_asked_at": -1}, True),
        ({"tasks_revision": 3, "listed_revision": 2}, True),
        ({"tasks_revision": 3, "listed_revision": 3}, False),
    ],
)
def test_a_rescan_lists_the_source_if_its_time_has_come_or_a_person_asked(
    changes: Mapping[str, Any], is_due: bool
) -> None:
    assert is_listing_due(at_rest(**of_folder(**changes)), SETTINGS, NOON) is is_due


# Whole seconds around NOON, so that moments coincide and lie on both sides of every limit.
ago = st.integers(-150, 0).map(lambda seconds: NOON + seconds)
ago_or_never = st.just(0.0) | ago
number = st.integers(0, 4)
versions = st.sampled_from(("", "r0001", "r0002"))
facts = st.builds(
    Facts.model_construct,
    read_at=ago_or_never,
    revision=number,
    trained_at=ago_or_never,
    head_revision=number,
    head_fitted_at=ago_or_never,
    ordered_by=versions,
    looked_for_again=number,
    exhausted_at=ago_or_never,
    rescanned_at=ago_or_never,
    decoded_at=ago_or_never,
    undecoded_images=number,
    review_project=st.none() | st.just(8),
    reviews_read_at=ago_or_never,
    finish_wanted=st.none() | st.just(0.02),
    finish_checked=number,
    finish_outlook_of=versions,
    finish_outlook_at=ago_or_never,
    training_ended_at=ago_or_never,
    first_version_at=ago_or_never,
    pool_images=st.sampled_from((0, 4999, 5000, 6000)),
    adapted_at=ago_or_never,
    adapted_images=st.sampled_from((0, 5000)),
    adapt_failures=number,
    start_changed_at=ago_or_never,
    failed_at=st.dictionaries(st.sampled_from([*RETRY_AFTER_S, "adapt"]), ago),
)
states = st.builds(
    State,
    facts,
    n_new=number,
    first_new_at=st.none() | ago,
    hinted_at=ago_or_never,
    train_asked_at=ago_or_never,
    rescan_asked_at=ago_or_never,
    may_pool_change=st.booleans(),
    n_open=number,
    rounds_done=number,
    in_service=versions,
    must_ask_sample=st.booleans(),
    n_at_work=number,
    is_attached=st.booleans(),
    has_foreign_open=st.booleans(),
    acceptance=st.none()
    | st.builds(
        sample,
        n_right=st.sampled_from((0, 29, 30)),
        n_errors=st.integers(0, 1),
        n_open=number,
        unasked=number,
        must_ask=st.booleans(),
    ),
)
all_settings = st.builds(
    Settings.model_construct,
    train=st.sampled_from(("both", "full", "head")),
    overlap=st.sampled_from(("auto", "1", "2", "3")),
    batch_size=st.integers(1, 4),
    rounds=number,
    retrain_after=st.integers(1, 4),
    retrain_wait_s=st.sampled_from((0.0, 30.0, 60.0)),
    rescan_every_s=st.sampled_from((30.0, 60.0)),
    adapt=st.sampled_from(("auto", "off", 0.5)),
)


def steps(decision: Decision) -> tuple[str | None, str | None]:
    return decision.train, decision.rank


@hypothesis_settings(max_examples=1000, deadline=None)
@given(state=states, settings=all_settings)
def test_no_step_is_retried_early_unless_a_person_asks_again(
    state: State, settings: Settings
) -> None:
    for step in filter(None, steps(decide(state, settings, NOON))):
        failed_at = state.facts.failed_at.get(step, 0.0)
        retry_at = adapting_rule.retry_at(state.facts)
        if step != "adapt":
            retry_at = failed_at + RETRY_AFTER_S[step]
        asked_at = {"retrain": state.train_asked_at, "rescan": state.rescan_asked_at}
        is_asked_again = asked_at.get(step, 0.0) > failed_at
        assert retry_at <= NOON or is_asked_again


@hypothesis_settings(max_examples=1000, deadline=None)
@given(state=states, settings=all_settings, share=st.floats(0, 1, exclude_max=True))
def test_nothing_becomes_due_before_look_at_and_something_is_due_then(
    state: State, settings: Settings, share: float
) -> None:
    decision = decide(state, settings, NOON)
    assert decision.look_at > NOON
    is_look_due = decision.look_at < math.inf
    before = NOON + share * ((decision.look_at if is_look_due else NOON + 1e6) - NOON)
    if before < decision.look_at:  # rounding may make it the same
        assert steps(decide(state, settings, before)) == steps(decision)
    if is_look_due:
        assert any(steps(decide(state, settings, decision.look_at)))
