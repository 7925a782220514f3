"""Read back the data of our tasks, even if people changed it in Label Studio."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.base.labeling import VALIDATION, Asked, Task, TaskReading
from backend.labelstudio.task_data import (
    is_seed,
    is_validation,
    read_asked,
    read_image_id,
    write_asked,
    write_review,
    write_seed,
)
from backend.store.project_store import ProjectStore

ASKED = Asked("img-1", 3, "margin", "r0003", 0.5, (0.25, 0.75))
FIRST = Asked("img-1", 0, "random", "", 0.5)  # before there was a model


def test_a_task_holds_how_it_was_asked_and_its_acquisition_scores() -> None:
    assert write_asked("data:,", ASKED, "r0003 guessed: dog 75 %") == {
        "image": "data:,",
        "image_id": "img-1",
        "asked_round": 3,
        "asked_by": "margin",
        "asked_version": "r0003",
        "hint": "r0003 guessed: dog 75 %",
        "asked_probs": [0.25, 0.75],
        "asked_confidence": 0.75,
        "asked_margin": 0.5,  # 1 - (0.75 - 0.25)
        "asked_entropy": 0.81128,  # -(1/4 log2 1/4 + 3/4 log2 3/4)
    }


def test_a_task_queried_without_a_model_holds_no_scores() -> None:
    assert write_asked("data:,", FIRST, "no guess") == {
        "image": "data:,",
        "image_id": "img-1",
        "asked_round": 0,
        "asked_by": "random",
        "asked_version": "",
        "hint": "no guess",
    }


def test_a_validation_task_is_recognized_by_how_it_was_asked() -> None:
    asked = replace(FIRST, strategy=VALIDATION)
    assert is_validation(write_asked("data:,", asked, ""))
    assert not is_validation(write_asked("data:,", FIRST, ""))
    assert not is_validation(None)


def test_without_a_hint_no_readable_field_reveals_the_prediction() -> None:
    data = write_asked("data:,", ASKED, None)
    assert set(data) == {
        "image", "image_id", "asked_round", "asked_by", "asked_version", "asked_probs",
    }  # fmt: skip


@pytest.mark.parametrize("hint", ["a hint", None])
@pytest.mark.parametrize("asked", [ASKED, FIRST], ids=["by a version", "without a model"])
def test_how_a_task_was_asked_survives_json_except_its_confidence(
    asked: Asked, hint: str | None
) -> None:
    data = json.loads(json.dumps(write_asked("data:,", asked, hint)))
    assert read_asked(data) == replace(asked, confidence=None)
    assert read_image_id(data) == "img-1"
    assert not is_seed(data)


def test_rounding_keeps_the_probabilities_of_a_thousand_classes() -> None:
    asked = replace(ASKED, probs=(1 - 999 * 0.000_016, *[0.000_016] * 999))
    found = read_asked(write_asked("data:,", asked, None))
    assert found is not None
    assert found.probs == (0.98402, *[0.00002] * 999)  # 0.0000160 -> 0.00002: 0.4 % too much


@pytest.mark.parametrize("hint", ["a hint", None])
def test_a_seed_task_is_marked_as_seed_and_not_as_asked(hint: str | None) -> None:
    data = write_seed("data:,", "img-1", hint)
    assert is_seed(data)
    assert read_image_id(data) == "img-1"
    assert read_asked(data) is None
    assert ("hint" in data, data.get("hint")) == (hint is not None, hint)


def test_a_review_task_names_the_doubtful_label_and_the_reason_and_is_not_marked_as_asked() -> None:
    data = write_review("data:,", "img-1", "cat", "2 of 3 chose dog")
    assert data == {
        "image": "data:,",
        "image_id": "img-1",
        "review_label": "cat",
        "review_reason": "2 of 3 chose dog",
    }
    assert read_asked(data) is None
    assert not is_seed(data)


@pytest.mark.parametrize(
    "data",
    [None, 5, "img-1", [], {}, {"image_id": ""}, {"image_id": None, "asked_by": "margin"}],
)
def test_a_foreign_task_has_no_pool_image(data: object) -> None:
    assert read_image_id(data) == ""
    assert read_asked(data) is None
    assert not is_seed(data)


def test_a_task_without_query_data_was_not_asked_by_us() -> None:
    assert read_asked({"image": "data:,", "image_id": "img-1"}) is None


@pytest.mark.parametrize(
    "probs",
    [
        None,
        "0.25, 0.75",
        {"cat": 1.0},
        [],
        [0.25, "0.75"],
        [True, False],
        [0.25, None],
        [0.25, 0.5],  # sums to 0.75
        [0.6, 0.6, -0.2],
        [1.005, 0.0],
        [float("nan"), 1.0],
        [float("inf"), 0.0],
        [10**400, 0],
    ],
)
def test_invalid_probabilities_are_left_out_and_the_rest_is_kept(probs: object) -> None:
    data = {**write_asked("data:,", ASKED, None), "asked_probs": probs}
    assert read_asked(data) == replace(ASKED, confidence=None, probs=())


def test_probabilities_alone_mark_a_task_as_asked() -> None:
    found = read_asked({"image_id": "img-1", "asked_probs": [0, 1]})
    assert found == Asked("img-1", 0, "", "", None, (0.0, 1.0))


@pytest.mark.parametrize("round_", [None, "3", 3.0, True, [3], -1, 10**30])
def test_an_invalid_round_counts_as_the_first(round_: object) -> None:
    found = read_asked({**write_asked("data:,", ASKED, None), "asked_round": round_})
    assert found == replace(ASKED, confidence=None, round=0)


# Label Studio can store any JSON without lone surrogates.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63, 2**70)
    | st.floats()
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
KEYS = ("image", "image_id", "asked_by", "asked_round", "asked_version", "asked_probs")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(KEYS), json_values),
    missing=st.sets(st.sampled_from(KEYS)),
)
def test_any_task_data_in_label_studio_can_be_recorded(
    changes: dict[str, Any], missing: set[str], tmp_path: Path
) -> None:
    data = {**write_asked("data:,", ASKED, None), **changes}
    left = {key: value for key, value in data.items() if key not in missing}
    store = ProjectStore(tmp_path)
    task = Task(1, read_image_id(left), is_open=True, awaits_second_opinion=False)
    store.record_tasks([TaskReading(task, "2026", (), read_asked(left))], 0.0)
    assert [found.image_id for found in store.tasks()] == [read_image_id(left)]
