"""Test the dashboard's section "Results": the download, and the buttons beside it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from backend.base.settings import Settings
from backend.queue.training_queue import TrainingQueue
from backend.store.exports import labels_path
from backend.store.finish_store import FinishStore
from backend.store.project_record import project_root, write_record
from backend.store.project_rows import FinishOutlook
from backend.store.project_store import ProjectStore
from backend.web.serving import create_app
from tests.conftest import RedisServer
from tests.unit.store.test_finish_store import FIRST, IMAGES, SAMPLE
from tests.unit.store.test_registry import record
from tests.unit.web.conftest import settings_of
from tests.unit.web.test_dashboard import section

PROJECT = 7
LEAD = ("tightloop", "dash-pass")
CSV = "image,label\na.jpg,cat\n"


@pytest.fixture
def config(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = settings_of(tmp_path, redis_server, dashboard_password="dash-pass", dashboard_open=True)
    write_record(project_root(own.model_dir, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def root(config: Settings) -> Path:
    return project_root(config.model_dir, PROJECT)


@pytest.fixture
def client(config: Settings, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr("backend.web.page_cache.PAGE_LIFETIME_S", 0.0)
    return create_app(config).test_client()


def results(client: FlaskClient) -> str:
    response = client.get("/dashboard")
    assert response.status_code == 200, response.text
    return section(response.text, "results")


def write_labels(root: Path) -> None:
    labels_path(root).parent.mkdir()
    labels_path(root).write_text(CSV)


def test_labels_can_be_downloaded_only_with_the_password_even_if_the_page_is_open(
    client: FlaskClient, root: Path
) -> None:
    write_labels(root)
    path = f"/dashboard/labels.csv?project={PROJECT}"
    for login in (None, ("tightloop", "wrong")):
        refused = client.get(path, auth=login)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == 'Basic realm="Tightloop"'
    sent = client.get(path, auth=LEAD)
    assert (sent.status_code, sent.text) == (200, CSV)
    assert sent.content_type == "text/csv; charset=utf-8"
    assert sent.headers["Content-Disposition"] == "attachment; filename=labels.csv"
    assert sent.headers["Cache-Control"] == "private, no-cache"
    sent.close()


def test_before_the_first_export_the_page_offers_no_download(
    client: FlaskClient, root: Path
) -> None:
    assert "Download" not in results(client)
    missing = client.get(f"/dashboard/labels.csv?project={PROJECT}", auth=LEAD)
    assert missing.status_code == 404
    assert "Prepare labels.csv" in missing.get_json()["error"]
    write_labels(root)
    assert f'href="/dashboard/labels.csv?project={PROJECT}"' in results(client)
    assert f"{len(CSV)} Bytes" in results(client)


@pytest.mark.parametrize("project", ["", "?project=8", "?project=../7"])
def test_a_download_of_an_unknown_project_is_refused(client: FlaskClient, project: str) -> None:
    assert client.get(f"/dashboard/labels.csv{project}", auth=LEAD).status_code in (400, 404)


def test_the_button_requests_an_export_and_the_page_says_so(
    client: FlaskClient, root: Path, redis_server: RedisServer
) -> None:
    before = time.time()
    assert "being prepared" not in results(client)
    pressed = client.post("/dashboard/export", data={"project": PROJECT}, auth=LEAD)
    assert (pressed.status_code, pressed.location) == (303, "/dashboard?project=7")
    assert ProjectStore(root).facts().export_asked_at >= before
    assert TrainingQueue(redis_server.url).hints(PROJECT).looks == 1
    assert "labels.csv is being prepared" in results(client)
    ProjectStore(root).record(exported_at=time.time())
    assert "being prepared" not in results(client)


@pytest.mark.parametrize("button", ["export", "finish"])
def test_the_buttons_need_the_password(client: FlaskClient, root: Path, button: str) -> None:
    form = {"project": PROJECT, "max_error": "0.02"}
    assert client.post(f"/dashboard/{button}", data=form).status_code == 401
    facts = ProjectStore(root).facts()
    assert (facts.export_asked_at, facts.finish_wanted) == (0.0, None)


def test_the_button_requests_labels_by_the_model(client: FlaskClient, root: Path) -> None:
    form = {"project": PROJECT, "max_error": "0.05"}
    assert client.post("/dashboard/finish", data=form, auth=LEAD).status_code == 303
    assert ProjectStore(root).facts().finish_wanted == 0.05
    assert "The acceptance sample is being drawn" in results(client)


@pytest.mark.parametrize("max_error", ["", "0", "1", "-0.1", "nan", "inf", "two"])
def test_an_impossible_promise_is_refused(client: FlaskClient, root: Path, max_error: str) -> None:
    form = {"project": PROJECT, "max_error": max_error}
    refused = client.post("/dashboard/finish", data=form, auth=LEAD)
    assert refused.status_code == 400
    assert "between 0 and 1" in refused.get_json()["error"]
    assert ProjectStore(root).facts().finish_wanted is None


def outlook(max_error: float, model_labels: int, allowed_errors: int = 0) -> FinishOutlook:
    return FinishOutlook(
        max_error=max_error,
        model_labels=model_labels,
        sample=183,
        allowed_errors=allowed_errors,
        pass_probability=0.825,
    )


def test_each_promise_that_is_possible_now_has_a_button(client: FlaskClient, root: Path) -> None:
    assert "finish-1" not in results(client)
    offers = [outlook(0.02, 0), outlook(0.05, 14_210), outlook(0.1, 15_000, allowed_errors=1)]
    ProjectStore(root).record(finish_outlook=[offer.model_dump() for offer in offers])
    html = results(client)
    assert re.search(r'id="finish-1" disabled>At most 2%<', html)
    assert "not possible yet" in html
    assert re.search(r'id="finish-2" >At most 5%<', html)
    assert "14,210 images for the model, after people label 183" in html
    assert "(no errors allowed; passes with a probability of 82%)" in html
    assert "(1 error allowed;" in html
    assert 'name="max_error" value="0.05"' in html


def test_a_try_is_shown_from_its_sample_to_its_promise(client: FlaskClient, root: Path) -> None:
    """The first try contains six images, of which people label two."""
    offer = outlook(0.05, 14_210).model_dump()
    ProjectStore(root).record(finish_outlook=[offer], unlabeled_images=9)
    store = FinishStore(root)
    store.begin(FIRST, IMAGES, SAMPLE)
    asking = results(client)
    assert "Acceptance sample: 0 of 2 labeled, 0 errors (0 allowed)." in asking
    assert '<progress max="2" value="0"' in asking
    assert "the model labels 4 images, of which at most 1 are wrong (with 95% confidence)" in asking
    assert "finish-1" not in asking
    store.end(1, "passed", 0, time.time(), 2)
    passed = results(client)
    assert "4 of 9 can be labeled by the model (at most 25 % wrong, with 95 % confidence)" in passed
    assert "The next labels.csv contains the model" in passed
    assert "finish-1" in passed


def test_without_a_password_the_section_offers_nothing_to_press(
    config: Settings, root: Path
) -> None:
    write_labels(root)
    ProjectStore(root).record(finish_outlook=[outlook(0.05, 14_210).model_dump()])
    closed = config.model_copy(update={"dashboard_password": SecretStr("")})
    html = results(create_app(closed).test_client())
    assert "Download" not in html
    assert html.count("<button") == html.count("disabled>") == 2
