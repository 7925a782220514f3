"""The dashboard without a browser: what the page shows, and what its buttons do."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job

from backend.base.settings import Settings, load_settings
from backend.measures.evaluation import Evaluation
from backend.queue import training_queue
from backend.queue.training_queue import TrainingQueue
from backend.rounds.decide import decide
from backend.rounds.observe import observe
from backend.store import model_outputs
from backend.store.annotation_outcomes import AnnotationOutcomes
from backend.store.bodies import Bodies
from backend.store.project_db import writing
from backend.store.project_record import project_root, read_record, write_record
from backend.store.project_rows import AnnotatorFigures, OpenImage
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.web.dashboard import SECURITY_HEADERS
from backend.web.serving import create_app
from tests.conftest import RedisServer
from tests.unit.store.test_bodies import save_body
from tests.unit.store.test_registry import meta, record
from tests.unit.store.test_registry import save as save_version
from tests.unit.web.conftest import settings_of
from tests.unit.web.test_status import keep_reading, keep_validation

PROJECT = 7
LEAD = ("tightloop", "dash-pass")
EVIL = "<script>alert(1)</script>"
SAFE = "&lt;script&gt;alert(1)&lt;/script&gt;"


@pytest.fixture
def config(tmp_path: Path, redis_server: RedisServer) -> Settings:
    own = settings_of(
        tmp_path,
        redis_server,
        label_studio_url="http://127.0.0.1:8080",
        dashboard_password="dash-pass",
        dashboard_open=True,
    )
    write_record(project_root(own.model_dir, PROJECT), record(PROJECT))
    return own


@pytest.fixture
def root(config: Settings) -> Path:
    return project_root(config.model_dir, PROJECT)


@pytest.fixture
def store(root: Path) -> ProjectStore:
    return ProjectStore(root)


@pytest.fixture
def queue(redis_server: RedisServer) -> TrainingQueue:
    return TrainingQueue(redis_server.url)


@pytest.fixture
def client(config: Settings, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr("backend.web.page_cache.PAGE_LIFETIME_S", 0.0)
    return create_app(config).test_client()


def page(client: FlaskClient, path: str = "/dashboard", status: int = 200) -> str:
    response = client.get(path)
    assert response.status_code == status, response.text
    return response.text


def save(root: Path, number: int, **changes: Any) -> None:
    saved = save_version(root, meta(number, **changes))
    if saved.refused is None:
        Registry(root).promote(saved.version)


def keep_open(store: ProjectStore, *labels: str) -> None:
    images = [
        OpenImage(
            image_id=f"image-of-{label}",
            confidence=0.1,
            guesses=((label, 0.612), ("other", 0.3), ("third", 0.05)),
            is_again=False,
            picture="data:image/png;base64,AAAA",
        )
        for label in labels
    ]
    store.record_open_images(time.time(), images)


def section(html: str, name: str) -> str:
    return html.split(f'<section id="{name}"')[1].split("</section>")[0]


def test_a_new_project_says_what_happens_automatically(client: FlaskClient) -> None:
    html = page(client)
    assert "no model yet" in section(html, "now")
    assert "No version yet" in section(html, "curve")
    assert "No annotator has contributed" in section(html, "people")
    assert 'href="http://127.0.0.1:8080/projects/7/data"' in html


def figures(client: FlaskClient) -> list[str]:
    """Return labels, annotations, skipped, open, awaiting a second opinion, new of how many."""
    return re.findall(r"<dd>(.*?)</dd>", section(page(client), "now"))


def test_counts_are_unknown_until_label_studio_was_read(client: FlaskClient, root: Path) -> None:
    assert figures(client) == ["0", "?", "?", "?", "?", "0 of 20"]
    keep_reading(root, annotations=1061, skipped=4, n_open=18, again=3, new=2)
    assert figures(client) == ["0", "1,061", "4", "18", "3", "2 of 20"]


def test_without_a_project_the_page_says_how_to_make_one(config: Settings) -> None:
    empty = config.model_copy(update={"model_dir": config.model_dir / "empty"})
    empty.model_dir.mkdir()
    assert "scripts.setup_project" in page(create_app(empty).test_client())


def test_the_page_shows_what_the_status_says(
    client: FlaskClient, root: Path, store: ProjectStore
) -> None:
    truth = np.array([0, 0, 0, 1])
    says = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]], np.float32)
    save(root, 1)
    save(root, 2, labels=1234)
    model_outputs.save_validation_probs(root, "r0002", truth, says)
    save(root, 3, refused="plainly worse")
    keep_open(store, "frog")
    ada = AnnotatorFigures(1, "Ada", 12, 3, 0.75, 0.8, 0.55, 0.95, 12, 0.5, 0.25, 4.2)
    store.record_annotators([ada])
    keep_reading(root, annotations=61, skipped=4, n_open=18, again=3)
    store.record_error("training", "the disk is full: free space")
    html = page(client)
    assert "r0002 in service, 50.0% right" in section(html, "now")
    assert "1,234" in section(html, "now")
    assert "frog 61%" in section(html, "next")
    assert "cat taken for dog: 2 of 3" in section(html, "classes")
    assert "80.0% (55.0% to 95.0%)" in section(html, "people")
    assert "refused: plainly worse" in section(html, "versions")
    assert "the disk is full: free space" in section(html, "errors")


def test_annotations_that_were_not_learned_are_explained_below_the_figures(
    client: FlaskClient, root: Path
) -> None:
    keep_reading(root, annotations=61)
    AnnotationOutcomes(root).record(dict.fromkeys(range(61), ("cat", "learned")))
    assert "learned" not in section(page(client), "now")
    AnnotationOutcomes(root).record({3: ("cat", "not of the pool")})
    now = section(page(client), "now")
    assert "61 annotations, 60 learned: 1 of images no longer in the pool." in now


def test_a_project_that_is_gone_is_shown_only_on_request_and_offers_no_labeling(
    client: FlaskClient, config: Settings
) -> None:
    newest = project_root(config.model_dir, PROJECT + 1)
    write_record(newest, record(PROJECT + 1).model_copy(update={"title": "Deleted"}))
    assert "<h1>Deleted</h1>" in page(client)
    ProjectStore(newest).record(gone="it is gone: run `--forget 8`")
    shown = page(client)
    assert "<h1>Deleted</h1>" not in shown
    assert "it is gone" not in shown
    assert "Label now" in shown
    gone = client.get(f"/dashboard?project={PROJECT + 1}").text
    assert "it is gone: run <code>--forget 8</code>" in gone
    assert "Label now" not in gone
    assert "Train now" not in gone


def test_an_error_that_is_over_is_marked(client: FlaskClient, store: ProjectStore) -> None:
    store.record_error("training", "the disk is full", step="retrain")
    assert "(over" not in section(page(client), "errors")
    store.record_success("retrain")
    errors = section(page(client), "errors")
    assert "training (over: the job has succeeded since): the disk is full" in errors


def test_the_page_shows_how_far_annotators_are_with_validation(
    client: FlaskClient, root: Path
) -> None:
    estimate = Evaluation(accuracy=0.63, log_loss=1.1, images=140)
    save(root, 1, validation=None, cross_validation=estimate)
    assert "Validation:" not in section(page(client), "now")
    keep_validation(root, *["cat"] * 12, None)
    now = section(page(client), "now")
    assert "Validation: 12 of 200 images labeled by annotators, 1 undecided" in now
    assert '<progress max="200" value="12"' in now
    assert (
        "Until 100 are labeled, an estimate of the accuracy: 63% (cross-validated on 140 training "
        "labels, which are not a random sample: biased)."
    ) in now
    assert "accuracy not known yet: 12 of 200" in section(page(client), "curve")
    keep_validation(root, *["cat"] * 200)
    now = section(page(client), "now")
    assert "Validation: 200 of 200 images labeled by annotators</p>" in now
    assert "estimate" not in now


def test_a_pool_too_small_for_validation_has_an_estimate_without_an_end(
    client: FlaskClient, root: Path
) -> None:
    estimate = Evaluation(accuracy=0.63, log_loss=1.1, images=140)
    save(root, 1, validation=None, cross_validation=estimate)
    keep_validation(root, *["cat"] * 12)
    found = read_record(root)
    assert found is not None
    write_record(root, found.model_copy(update={"validation_images": 24}))  # 18 of them are wanted
    now = section(page(client), "now")
    assert "Validation: 12 of 18 images labeled by annotators" in now
    assert '<p class="hint">Estimate of the accuracy: 63% (' in now


def test_a_validation_image_is_shown_without_a_guess(
    client: FlaskClient, store: ProjectStore
) -> None:
    image = OpenImage(
        image_id="a", confidence=0, guesses=(), is_again=False, is_validation=True, picture="data:,"
    )
    store.record_open_images(time.time(), [image])
    html = section(page(client), "next")
    assert "<b>validation</b><span>no guess shown</span>" in html
    assert "without a model" not in html


def test_the_button_says_roll_back_for_an_older_version_and_put_in_service_for_a_newer_one(
    client: FlaskClient, root: Path
) -> None:
    for number in (1, 2, 3):
        save(root, number)
    Registry(root).promote("r0002")
    html = section(page(client), "versions")
    assert 'aria-label="Roll back: r0001"' in html
    assert 'aria-label="Put in service: r0003"' in html
    assert "promote-r0002" not in html


def test_a_pruned_version_is_listed_without_a_button(client: FlaskClient, root: Path) -> None:
    for number in (1, 2, 3):
        save(root, number)
    Registry(root).mark_pruned("r0001", datetime(2026, 1, 1, 12, tzinfo=UTC))
    html = section(page(client), "versions")
    assert re.search(r'<th scope="row">r0001</th>\s*<td>pruned</td>', html)
    assert "promote-r0001" not in html
    assert "promote-r0002" in html
    response = client.post(
        "/dashboard/promote", data={"project": PROJECT, "version": "r0001"}, auth=LEAD,
        headers={"Sec-Fetch-Site": "same-origin"},
    )  # fmt: skip
    assert response.status_code == 404
    assert "the weights of r0001 were pruned on 2026-01-01" in response.text


def test_heads_have_their_own_table_except_the_one_in_service(
    client: FlaskClient, root: Path
) -> None:
    save(root, 1)
    for head in ("r0001h01", "r0001h02"):
        save(root, 1, version=head)
    table, _, others = section(page(client), "versions").partition("<details")
    assert "r0001h02" in table
    assert "r0001h01" not in table
    assert "r0001h01" in others


def test_many_classes_are_shown_as_a_list_of_confusions_instead_of_a_matrix(
    client: FlaskClient, root: Path
) -> None:
    names = tuple(f"class {n}" for n in range(40))
    save_version(root, meta(1, classes=names, labels_per_class=dict.fromkeys(names, 1)))
    truth = np.arange(40)
    says = np.eye(40, dtype=np.float32)[np.roll(truth, -1)]
    model_outputs.save_validation_probs(root, "r0001", truth, says)
    Registry(root).promote("r0001")
    html = section(page(client), "classes")
    assert 'class="matrix"' not in html
    assert html.count("taken for") == 12


def test_a_running_training_shows_a_progress_bar(
    client: FlaskClient,
    queue: TrainingQueue,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue.enqueue("retrain", PROJECT)
    assert "<b>Training</b> (queued)" in section(page(client), "jobs")
    connection = Redis.from_url(redis_server.url)
    worker = SimpleWorker(["train"], connection=connection, serializer="json")
    worker.register_birth()  # type: ignore[no-untyped-call]
    job = Job.fetch("retrain-p7", connection=connection, serializer="json")
    job.set_status("started")  # type: ignore[arg-type]
    assert "<progress aria-label" in section(page(client), "jobs")
    now = time.time()
    monkeypatch.setattr(training_queue, "time", SimpleNamespace(time=lambda: now))
    queue.report_progress(job, "training", 0, 80)
    monkeypatch.setattr(training_queue, "time", SimpleNamespace(time=lambda: now + 10))
    queue.report_progress(job, "training", 20, 80)
    html = section(page(client), "jobs")
    assert "training, 20 of 80 steps, about 30 s left" in html
    assert '<progress max="80" value="20"' in html


def test_adapting_the_body_is_shown_with_its_progress_and_later_with_its_gain(
    client: FlaskClient, root: Path, store: ProjectStore
) -> None:
    save(root, 1)
    store.record(pool_images=1797)
    html = section(page(client), "adaptation")
    assert "<code>ADAPT=auto</code> needs 5,000 images, and the pool has 1,797." in html
    assert "<progress" not in html
    began = {"adapt_began_at": 1.0, "adapt_spent_s": 720.0, "adapt_budget_s": 1800.0}
    store.record(pool_images=45_000, **began)
    html = section(page(client), "adaptation")
    assert "paused after 12 of at most 30 minutes" in html
    assert '<progress max="30.0" value="12.0"' in html
    save_body(root)  # a head on it is right on 50.0 %, one on the pre-trained body on 40.0 %
    Bodies(root).set_start("a0001", by="loop")
    store.record(adapted_at=2.0, adapted_images=45_000)
    html = section(page(client), "adaptation")
    assert "<progress" not in html
    assert re.findall(r"<dd>(.*?)</dd>", html) == ["40.0%", "50.0%", "100", "a0001"]


def test_a_reason_for_a_failed_adaptation_is_shown_but_never_run(
    client: FlaskClient, store: ProjectStore
) -> None:
    store.record(pool_images=45_000, adapt_failures=1, adapt_error=EVIL)
    assert f"Adapting the body failed: {SAFE}." in section(page(client), "adaptation")


def test_a_ranker_job_is_shown_by_its_step_once_it_has_started(
    client: FlaskClient, queue: TrainingQueue, redis_server: RedisServer
) -> None:
    queue.enqueue("rank", PROJECT)
    assert "<b>Checking what is due</b> (queued)" in section(page(client), "jobs")
    job = Job.fetch("rank-p7", connection=Redis.from_url(redis_server.url), serializer="json")
    job.set_status("started")  # type: ignore[arg-type]
    for step, name in (("read", "Reading annotations"), ("top_up", "Adding tasks")):
        queue.report_step(job, step)
        assert f"<b>{name}</b>" in section(page(client), "jobs")
    queue.report_progress(job, "scoring images", 3, 4)
    assert "<b>Adding tasks</b>: scoring images, 3 of 4" in section(page(client), "jobs")


def test_commands_in_notices_are_shown_as_code(client: FlaskClient, store: ProjectStore) -> None:
    store.record(order_problem="The order was changed. To change it back, run `do <this>`.")
    html = page(client)
    assert "To change it back, run <code>do &lt;this&gt;</code>.</p>" in section(html, "now")


def test_text_from_outside_is_shown_but_never_run(
    client: FlaskClient, root: Path, store: ProjectStore, queue: TrainingQueue
) -> None:
    write_record(root, record(PROJECT).model_copy(update={"title": EVIL}))
    names = (EVIL, '" onload="x')
    save_version(root, meta(1, classes=names, labels_per_class=dict.fromkeys(names, 3)))
    model_outputs.save_validation_probs(
        root, "r0001", np.array([0]), np.array([[0, 1]], np.float32)
    )
    Registry(root).promote("r0001")
    save(root, 2, refused=EVIL)
    keep_open(store, EVIL)
    person = AnnotatorFigures(1, EVIL, 1, 0, None, None, None, None, 0, None, None, None)
    store.record_annotators([person])
    store.record_error("training", EVIL)
    queue.record_health("label_studio", EVIL, time.time(), 60)
    store.record(waiting_for=EVIL)
    html = page(client)
    assert EVIL not in html
    assert 'onload="x' not in html
    for name in ("problem", "now", "classes", "people", "versions", "errors", "next"):
        assert SAFE in section(html, name), name
    assert EVIL.encode() not in client.get("/dashboard/curve.svg").data


def test_the_page_may_run_only_its_own_script_and_may_not_be_framed(
    client: FlaskClient,
) -> None:
    response = client.get("/dashboard")
    for name, value in SECURITY_HEADERS.items():
        assert response.headers[name] == value
    policy = response.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "<style" not in response.text
    assert "style=" not in response.text
    assert response.text.count("<script") == 1
    picture = client.get("/dashboard/curve.svg").headers["Content-Security-Policy"]
    assert "script-src" not in picture
    assert "default-src 'none'" in picture


def test_an_unchanged_page_is_not_sent_again(client: FlaskClient, root: Path) -> None:
    save(root, 1)
    first = client.get("/dashboard")
    again = client.get("/dashboard", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    save(root, 2)
    changed = client.get("/dashboard", headers={"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200


def test_a_request_within_a_second_gets_the_same_page_unless_a_button_was_pressed(
    config: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.web.page_cache.PAGE_LIFETIME_S", 3600.0)
    client = create_app(config).test_client()
    before = page(client)
    save(root, 1)
    assert page(client) == before
    assert client.post("/dashboard/train", data={"project": 7}, auth=LEAD).status_code == 303
    assert "r0001" in page(client)  # the change is visible at once


def test_the_button_rolls_back_and_has_the_open_tasks_reordered(
    client: FlaskClient,
    config: Settings,
    root: Path,
    store: ProjectStore,
    queue: TrainingQueue,
    redis_server: RedisServer,
) -> None:
    save(root, 1)
    save(root, 2)
    keep_reading(root, n_open=20, at=time.time())
    store.record(ordered_by="r0002")
    form = {"project": PROJECT, "version": "r0001"}
    response = client.post("/dashboard/promote", data=form, auth=LEAD)
    assert (response.status_code, response.location) == (303, "/dashboard?project=7")
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"
    assert Queue("rank", connection=Redis.from_url(redis_server.url)).job_ids == ["rank-p7"]
    due = decide(observe(root, queue, PROJECT), config, time.time())
    assert (due.rank, due.train) == ("refresh", None)


def test_the_button_starts_a_training_even_if_no_label_is_new(
    client: FlaskClient,
    config: Settings,
    root: Path,
    queue: TrainingQueue,
    redis_server: RedisServer,
) -> None:
    keep_reading(root, annotations=30)
    assert client.post("/dashboard/train", data={"project": 7}, auth=LEAD).status_code == 303
    assert Queue("rank", connection=Redis.from_url(redis_server.url)).job_ids == ["rank-p7"]
    state = observe(root, queue, PROJECT)
    assert (state.n_new, state.is_training_asked) == (0, True)
    assert decide(state, config, time.time()).train == "retrain"


def test_the_button_has_new_images_looked_for(
    client: FlaskClient, config: Settings, root: Path, store: ProjectStore, queue: TrainingQueue
) -> None:
    assert "rescan-now" not in page(client)  # the digits never change
    write_record(root, record(PROJECT).model_copy(update={"pool": "/birds"}))
    keep_reading(root)
    now = time.time()
    store.record(rescanned_at=now, pool_images=1_200, undecoded_images=0)
    html = page(client)
    assert 'id="rescan-now" >Look for new images' in html
    assert "<dt>images in the pool</dt><dd>1,200</dd>" in html
    assert decide(observe(root, queue, PROJECT), config, now).train is None
    assert client.post("/dashboard/rescan", data={"project": 7}, auth=LEAD).status_code == 303
    assert decide(observe(root, queue, PROJECT), config, time.time()).train == "rescan"


@pytest.mark.parametrize("version", ["r0009", "", "../../etc", EVIL])
def test_promoting_a_version_that_does_not_exist_says_so_and_changes_nothing(
    client: FlaskClient, root: Path, version: str
) -> None:
    save(root, 1)
    form = {"project": PROJECT, "version": version}
    response = client.post("/dashboard/promote", data=form, auth=LEAD)
    assert response.status_code == 404
    assert "known versions: r0001" in section(response.text, "problem")
    assert EVIL not in response.text
    current = Registry(root).current()
    assert current is not None
    assert current.version == "r0001"


@pytest.mark.parametrize(
    ("project", "status"), [("", 400), ("x", 400), ("-1", 400), ("8", 404), ("9" * 19, 400)]
)
def test_a_project_that_does_not_exist_is_refused(
    client: FlaskClient, project: str, status: int
) -> None:
    assert client.get(f"/dashboard?project={project}").status_code == status
    form = {"project": project}
    assert client.post("/dashboard/train", data=form, auth=LEAD).status_code == status


def test_the_newest_of_several_projects_is_shown_and_the_others_are_linked(
    client: FlaskClient, config: Settings
) -> None:
    other = record(12).model_copy(update={"title": "Birds"})
    write_record(project_root(config.model_dir, 12), other)
    html = page(client)
    assert "<h1>Birds</h1>" in html
    assert 'href="/dashboard?project=7"' in html
    assert "<h1>T</h1>" in page(client, "/dashboard?project=7")


def test_without_redis_the_page_says_so_and_recovers_automatically(
    client: FlaskClient, redis_server: RedisServer, root: Path
) -> None:
    save(root, 1)
    redis_server.stop()
    html = page(client, status=503)
    assert "REDIS_URL" in section(html, "problem")
    response = client.post("/dashboard/train", data={"project": 7}, auth=LEAD)
    assert response.status_code == 503
    assert "REDIS_URL" in section(response.text, "problem")
    redis_server.start()
    assert "r0001 in service" in page(client)


def test_without_the_model_folder_the_page_says_so(client: FlaskClient, config: Settings) -> None:
    config.model_dir.rename(config.model_dir.with_name("unmounted"))
    assert "MODEL_DIR" in section(page(client, status=503), "problem")


def test_without_a_password_the_buttons_say_what_is_missing(config: Settings) -> None:
    empty = load_settings(_env_file=None).dashboard_password
    own = config.model_copy(update={"dashboard_password": empty})
    html = page(create_app(own).test_client())
    assert "Set <code>DASHBOARD_PASSWORD</code>" in html
    assert 'id="train-now" disabled' in html


def test_with_blind_labeling_the_page_shows_no_guess_either(
    config: Settings, root: Path, store: ProjectStore
) -> None:
    save(root, 1)
    keep_open(store, "frog")
    blind = config.model_copy(update={"blind": True})
    html = section(page(create_app(blind).test_client()), "next")
    assert "frog 61%" not in html
    assert "label blind" in html


def test_the_first_view_is_small(client: FlaskClient, root: Path, store: ProjectStore) -> None:
    """Measured with a hundred versions and a full list of open images."""
    for number in range(1, 101):
        save(root, number, labels=10 * number)
    store.record_open_images(
        time.time(),
        [
            OpenImage(
                image_id=f"img-{n}",
                confidence=0.1,
                guesses=(("automobile", 0.4), ("truck", 0.3), ("airplane", 0.2)),
                is_again=False,
                picture="data:image/png;base64," + "A" * 4000,
            )
            for n in range(48)
        ],
    )
    paths = ("/dashboard", "/static/dashboard.css", "/static/dashboard.js", "/dashboard/curve.svg")
    n_bytes = 0
    for path in paths:
        with client.get(path) as response:
            assert response.status_code == 200
            n_bytes += len(response.data)
    assert n_bytes <= 300_000


def test_a_page_refreshes_the_project_it_shows_even_after_a_button_failed(
    client: FlaskClient, root: Path
) -> None:
    save(root, 1)
    assert 'data-address="/dashboard?project=7"' in page(client)
    form = {"project": PROJECT, "version": "r0009"}
    refused = client.post("/dashboard/promote", data=form, auth=LEAD)
    assert 'data-address="/dashboard?project=7"' in refused.text


def test_a_picture_is_cached_only_under_the_address_of_what_it_shows(
    client: FlaskClient, root: Path
) -> None:
    save(root, 1)
    address = re.search(r'/dashboard/curve.svg\?[^" ]+v=[0-9a-f]+', page(client))
    assert address is not None
    path = address[0].replace("&amp;", "&")
    assert "max-age" in client.get(path).headers["Cache-Control"]
    save(root, 2)
    assert client.get(path).headers["Cache-Control"] == "no-store"


def test_a_damaged_project_breaks_only_its_own_page(
    client: FlaskClient, config: Settings, root: Path
) -> None:
    save(root, 1)
    other = project_root(config.model_dir, 12)
    write_record(other, record(12))
    (other / "current").write_text("{")
    html = page(client, "/dashboard?project=7")
    assert "r0001 in service" in html
    assert "current is damaged" in section(html, "problem")
    assert "is damaged" in page(client, "/dashboard?project=12", 503)
    response = client.get("/status").get_json()
    assert [p["project_id"] for p in response["projects"]] == [7]
    assert list(response["unreadable"]) == ["12"]


@pytest.mark.parametrize("rows", ["[1]", '[{"name": "Ada"}]', '["Ada"]'])
def test_annotator_figures_of_an_earlier_release_in_a_wrong_shape_are_left_out(
    client: FlaskClient, root: Path, store: ProjectStore, rows: str
) -> None:
    (root / "annotators.json").write_text(rows)
    store.record_error("training", "the disk is full: free space")  # creates the database
    html = page(client)
    assert "No annotator has contributed" in section(html, "people")
    assert "the disk is full: free space" in section(html, "errors")


@pytest.mark.parametrize("figures", ["1", '{"name": "Ada"}', '"Ada"'])
def test_annotator_figures_in_a_wrong_shape_break_only_their_own_page(
    client: FlaskClient, config: Settings, root: Path, figures: str
) -> None:
    other = project_root(config.model_dir, 12)
    write_record(other, record(12))
    with writing(root) as db:
        db.execute("INSERT INTO own_annotator VALUES (0, ?)", (figures,))
    problem = section(page(client, "/dashboard?project=7", 503), "problem")
    assert "project.db is damaged (a row cannot be read): restore a backup" in problem
    assert "no model yet" in section(page(client, "/dashboard?project=12"), "now")


def test_unknown_figures_of_an_annotator_are_shown_as_unknown(
    client: FlaskClient, store: ProjectStore
) -> None:
    person = AnnotatorFigures(1, "Ada", 1, 0, None, None, None, None, 0, None, None, None)
    store.record_annotators([person])
    cells = re.findall(r"<td class=\"figure\">(.*?)</td>", section(page(client), "people"))
    assert cells == ["1", "0", *["\N{EN DASH}"] * 5]


def test_validation_images_of_other_classes_are_not_counted_as_confusion(
    client: FlaskClient, root: Path
) -> None:
    save_version(root, meta(1))
    says = np.array([[0.9, 0.1]], np.float32)
    model_outputs.save_validation_probs(root, "r0001", np.array([5]), says)
    Registry(root).promote("r0001")
    assert "taken for" not in section(page(client), "classes")


def test_unknown_projects_are_refused_however_many_are_requested(
    config: Settings, client: FlaskClient
) -> None:
    empty = config.model_copy(update={"model_dir": config.model_dir / "empty"})
    empty.model_dir.mkdir()
    bare = create_app(empty).test_client()
    for number in (0, 1, 99):
        assert bare.get(f"/dashboard?project={number}").status_code == 404
        assert client.get(f"/dashboard?project={number}").status_code == 404


def test_if_no_project_can_be_read_the_page_says_so_rather_than_that_there_is_none(
    client: FlaskClient, root: Path
) -> None:
    (root / "current").write_text("{")
    html = page(client, status=503)
    assert "current is damaged" in section(html, "problem")
    assert "No project is set up yet" not in html
