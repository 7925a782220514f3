"""Write predictions and read tasks in Label Studio's format."""

from __future__ import annotations

import math
from typing import Any

import pytest

from backend.base.errors import LabelConfigError
from backend.base.labeling import LabelConfig, Prediction
from backend.labelstudio.rows import (
    kept_address,
    prediction_result,
    read_attached_task,
    read_own_task,
    write_prediction,
)

CONFIG = LabelConfig("label", "image", "image", ("cat", "dog"))


def test_a_prediction_names_the_tags_of_the_label_config() -> None:
    assert prediction_result(CONFIG, "cat", 0.5) == [
        {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": ["cat"]},
            "score": 0.5,
        }
    ]


def test_a_prediction_of_a_class_outside_the_label_config_is_refused() -> None:
    with pytest.raises(LabelConfigError, match="'frog'"):
        prediction_result(CONFIG, "frog")


def test_a_prediction_without_a_label_shows_no_guess() -> None:
    assert write_prediction(CONFIG, Prediction(None, None, 0.0, "r0001")) == {
        "result": [],
        "score": 0.0,
        "model_version": "r0001",
    }


def choice(label: str, from_name: str = "label", **more: Any) -> dict[str, Any]:
    value = {"choices": [label]}
    return {"from_name": from_name, "to_name": "image", "type": "choices", "value": value, **more}


def row(data: dict[str, Any], *results: list[Any]) -> dict[str, Any]:
    """Return a task in Label Studio's JSON, with one annotation for each result."""
    annotations = [
        {
            "id": 10 + n, "result": result, "completed_by": 3, "updated_at": "2026-01-01",
            "was_cancelled": False, "ground_truth": False, "lead_time": 1.5,
        }
        for n, result in enumerate(results)
    ]  # fmt: skip
    return {
        "id": 5, "data": data, "total_annotations": len(annotations), "cancelled_annotations": 0,
        "is_labeled": bool(annotations), "updated_at": "2026-01-01", "annotations": annotations,
    }  # fmt: skip


def test_only_the_results_of_the_configs_choices_are_labels() -> None:
    text = {"from_name": "comment", "type": "textarea", "value": {"text": ["blurred"]}}
    task = row(
        {"image_id": "img"},
        [text, choice("cat")],
        [choice("dog", "former")],
        [text],
        [],
        "no list",  # type: ignore[arg-type]  # the API accepts any JSON
    )
    found = read_own_task(task, CONFIG).annotations
    assert [a.label for a in found] == ["cat", None, None, None, None]
    assert [a.is_of_other_control for a in found] == [False, True, True, False, False]
    assert [a.digest for a in found] == [
        "cat", "(another control)", "(another control)", "(empty)", "(empty)",
    ]  # fmt: skip


def test_annotations_are_read_from_the_oldest_to_the_newest() -> None:
    task = row({"image_id": "img"}, [choice("cat")], [choice("dog")], [])
    task["annotations"].reverse()
    found = read_own_task(task, CONFIG).annotations
    assert [(a.annotation_id, a.label) for a in found] == [(10, "cat"), (11, "dog"), (12, None)]


def test_a_skipped_annotation_is_not_an_annotation_of_another_control() -> None:
    task = row({}, [choice("dog", "former")])
    task["annotations"][0]["was_cancelled"] = True
    [found] = read_own_task(task, CONFIG).annotations
    assert (found.digest, found.is_of_other_control) == ("(skipped)", False)


@pytest.mark.parametrize(
    ("lead_time", "seconds", "working_s"),
    [
        (None, None, None),
        (0, 0, None),  # imported
        (2.5, 2.5, 2.5),
        (1e308, math.inf, None),
        (-1e308, math.inf, None),
        (math.nan, math.inf, None),
    ],
)
def test_impossible_lead_times_are_recorded_but_not_used_as_working_times(
    lead_time: float | None, seconds: float | None, working_s: float | None
) -> None:
    task = row({}, [choice("cat")])
    task["annotations"][0]["lead_time"] = lead_time
    [found] = read_own_task(task, CONFIG).annotations
    assert (found.seconds, found.working_s) == (seconds, working_s)


def test_the_image_of_an_attached_projects_task_is_named_after_the_task() -> None:
    data = {
        "image": "/data/upload/7/ab-cat.png", "image_id": "img-1", "asked_by": "seed",
        "asked_probs": [0.5, 0.5],
    }  # fmt: skip
    own, theirs = (
        read(row(data, [choice("cat")]), CONFIG) for read in (read_own_task, read_attached_task)
    )
    assert (own.task.image_id, own.annotations[0].image_id) == ("img-1", "img-1")
    assert (theirs.task.image_id, theirs.annotations[0].image_id) == ("ls-5", "ls-5")
    assert own.annotations[0].annotator is None  # imported with the task
    assert theirs.annotations[0].annotator == 3
    assert (own.address, theirs.address) == (None, "/data/upload/7/ab-cat.png")
    assert theirs.asked is None


@pytest.mark.parametrize("data", [{}, {"image": None}, {"image": 7}, {"image": "  "}, [], None])
def test_a_task_without_an_image_has_an_empty_address(data: Any) -> None:
    assert read_attached_task(row(data), CONFIG).address == ""


def test_the_image_of_a_data_uri_or_a_very_long_address_is_not_kept() -> None:
    long = [
        f"data:image/png;base64,{'A' * 5000}",
        f"/data/upload/{'x' * 2000}",
        "DATA:,x",
        "\ud800",
    ]
    kept = [kept_address(address) for address in long]
    assert all(len(address) == len("digest:") + 16 for address in kept)
    assert len(set(kept)) == 4
    assert kept == [kept_address(address) for address in long]
    assert kept_address("s3://bucket/key.png") == "s3://bucket/key.png"


@pytest.mark.parametrize(
    ("data", "is_unmarked"),
    [
        ({"image_id": "a", "asked_by": "random"}, False),
        ({"image_id": "a", "asked_by": "seed"}, False),
        ({"image_id": "a"}, True),
        ({"asked_by": "random"}, True),
        ({"asked_by": "seed"}, True),
        ({}, True),
    ],
)
def test_a_task_is_ours_if_its_data_says_how_its_image_was_queried(
    data: dict[str, Any], is_unmarked: bool
) -> None:
    assert read_own_task(row(data), CONFIG).is_unmarked is is_unmarked
