"""Predictions by the version in service: pool images by id, others by the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient

from backend.base.settings import Settings
from backend.images.index import Index
from backend.images.listing import Listed, make_listing
from backend.measures.evaluation import Evaluation
from backend.network import inference, resnet
from backend.store.project_record import POOL_INDEX
from backend.store.registry import Registry
from backend.web.predictions import ModelService, ResNetBackend
from tests.unit.web.conftest import (
    CONFIG,
    attach,
    png,
    predict,
    put_in_service,
    task,
)


def test_pool_images_are_predicted_by_id_in_the_configs_spelling_with_their_confidence(
    client: FlaskClient, root: Path
) -> None:
    put_in_service(root)
    sure, unsure = predict(client, task(1, image_id="img-a"), task(2, image_id="img-b"))
    [region] = sure["result"]
    assert region["value"] == {"choices": ["Dog"]}
    assert (region["from_name"], region["to_name"], region["type"]) == ("label", "image", "choices")
    assert region["score"] == pytest.approx(0.7)
    assert (sure["score"], sure["model_version"]) == (pytest.approx(0.7), "r0001")
    assert unsure["score"] == pytest.approx(0.4)


def test_other_images_are_run_through_the_model(client: FlaskClient, root: Path) -> None:
    put_in_service(root)
    [prediction] = predict(client, task(1, image=png((250, 0, 0), (32, 32))))
    red = np.full((1, 32, 32, 3), (250, 0, 0), dtype=np.uint8)
    model = inference.load_model(resnet.build(3, None, seed=1).state_dict(), 3, "cpu")
    expected = inference.predict(model, red, image_size=32, device="cpu").probs
    assert prediction["score"] == pytest.approx(float(expected.max()), abs=0.02)


def test_one_bad_image_loses_only_its_own_prediction(client: FlaskClient, root: Path) -> None:
    put_in_service(root)
    bad = task(2, image="data:image/png;base64,AAAA")
    elsewhere = task(3, image="http://169.254.169.254/latest/meta-data")
    predictions = predict(
        client, task(1, image_id="img-a"), bad, elsewhere, task(4), task(5, image=png((0, 9, 0)))
    )
    assert [bool(prediction["result"]) for prediction in predictions] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert [prediction["score"] is None for prediction in predictions] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_a_task_of_the_validation_sample_comes_first_without_a_guess(
    client: FlaskClient, root: Path
) -> None:
    put_in_service(root)
    first, held_out, last = predict(
        client,
        task(1, image_id="img-a"),
        task(2, image_id="img-b", asked_by="validation"),
        task(3, image=png((1, 2, 3)), asked_by="margin"),
    )
    assert held_out == {"result": [], "score": 0.0, "model_version": "r0001"}
    assert (first["score"], bool(last["result"])) == (pytest.approx(0.7), True)
    alone = predict(client, task(2, image="data:,broken", asked_by="validation"))
    assert alone == [held_out]


def test_the_tasks_of_an_attached_project_are_predicted_by_their_ids(
    client: FlaskClient, root: Path
) -> None:
    attach(root)
    put_in_service(root, image_ids=("ls-1", "ls-2"))
    red = png((250, 0, 0))
    known, other, unnamed = predict(
        client,
        task(1, image=red, image_id="ls-2", asked_by="validation"),
        task(3, image=red, image_id="ls-1"),
        {"id": "1", "data": {"image": red}},
    )
    assert known["score"] == pytest.approx(0.7)
    assert other["score"] == unnamed["score"] != pytest.approx(0.7)


def test_the_validation_sample_of_an_attached_project_gets_no_guess(
    client: FlaskClient, root: Path
) -> None:
    attach(root)
    put_in_service(root, image_ids=("ls-1", "ls-2"))
    listing = make_listing([Listed(f"ls-{n}", f"{n} /a.png") for n in range(1, 41)], {}, ())
    index = Index.empty("p").merge(listing).index.draw_sample(0, 30, exempt=["ls-1"])
    index.write(root / POOL_INDEX)
    assert index.sample is not None
    sample = set(index.image_ids[index.splits == "validation"])
    joining = {f"ls-{n}" for n in range(41, 81) if index.sample.contains(f"ls-{n}")}
    assert len(sample) == 7
    assert joining
    tasks = [task(n, image=png((9, n, 0))) for n in range(1, 81)]
    results = predict(client, *tasks)
    blind = {f"ls-{n}" for n, found in enumerate(results, start=1) if not found["result"]}
    assert blind == sample | joining
    assert {found["score"] for found in results if not found["result"]} == {0.0}


def test_a_newly_promoted_version_is_served_from_the_next_request_on(
    client: FlaskClient, root: Path
) -> None:
    for number in (1, 2):
        put_in_service(root, number)
        other = task(2, image=png((1, 2, 3)))
        predictions = predict(client, task(1, image_id="img-a"), other)
        assert {prediction["model_version"] for prediction in predictions} == {f"r000{number}"}
    Registry(root).promote("r0001")
    assert predict(client, task(1, image_id="img-a"))[0]["model_version"] == "r0001"


def test_a_version_that_was_measured_again_is_not_loaded_again(
    client: FlaskClient, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    put_in_service(root)
    predict(client, task(1, image_id="img-a"))
    Registry(root).record_validation("r0001", Evaluation(accuracy=0.7, log_loss=0.9, images=40))
    predict(client, task(1, image_id="img-a"))
    assert caplog.text.count("serving r0001") == 1


@pytest.mark.parametrize(
    "construct",
    [
        lambda service: ResNetBackend(label_config=CONFIG, train_output={}, service=service),
        lambda service: ResNetBackend("7", CONFIG, service=service),
        lambda service: ResNetBackend(
            project_id="7.1795346887", label_config=CONFIG, service=service
        ),
    ],
    ids=["1.0.9", "2.x", "2.x with a time stamp"],
)
def test_the_model_class_can_be_called_in_the_shapes_of_both_versions(
    config: Settings, root: Path, construct: Callable[[ModelService], ResNetBackend]
) -> None:
    put_in_service(root)
    model = construct(ModelService(config))
    tasks = [task(1, image_id="img-a")]
    by_kwargs = model.predict(tasks, login=None, password=None, context=None)
    assert model.predict(tasks, context=None) == model.predict(tasks) == by_kwargs
    assert (
        model.fit("ANNOTATION_CREATED", {}) == model.fit((), event="X", data={}, job_id="1") == {}
    )
