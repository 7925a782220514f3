"""The dashboard's section about unlabeled images: a team lead watches the body being adapted.

A whole stack would take half an hour for this, so the project's folder is written here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from werkzeug.serving import make_server

from backend.store.bodies import Bodies
from backend.store.project_record import project_root, write_record
from backend.store.project_store import ProjectStore
from backend.store.registry import Registry
from backend.web.serving import create_app
from tests.browser.conftest import NewPage
from tests.conftest import RedisServer
from tests.unit.store.test_bodies import save_body
from tests.unit.store.test_registry import meta, record, save
from tests.unit.web.conftest import settings_of
from tests.unit.web.test_status import keep_reading

BEGUN = {
    "pool_images": 45_000,
    "adapt_began_at": 1.0,
    "adapt_spent_s": 720.0,
    "adapt_budget_s": 1800.0,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = project_root(tmp_path / "models", 7)
    write_record(root, record(7).model_copy(update={"weights": "imagenet"}))
    save(root, meta(1))
    Registry(root).promote("r0001")
    keep_reading(root, annotations=25, n_open=18, new=5)
    ProjectStore(root).record(**BEGUN)
    return root


@pytest.fixture
def address(root: Path, redis_server: RedisServer) -> Iterator[str]:
    settings = settings_of(root.parents[1], redis_server)
    server = make_server("127.0.0.1", 0, create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/dashboard"
    server.shutdown()
    thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_open_page_shows_how_far_the_body_is_adapted_and_then_what_it_brought(
    address: str, root: Path, new_page: NewPage, scheme: str
) -> None:
    pages = [
        new_page(color_scheme=scheme),
        new_page(color_scheme=scheme, viewport={"width": 390, "height": 844}),
    ]
    for page in pages:
        page.goto(address)
        section = page.get_by_role("region", name="Learning from unlabeled images")
        expect(section).to_contain_text("after 12 of at most 30 minutes")
        bar = section.get_by_role("progressbar", name="Adapting the body to the pool")
        expect(bar).to_have_js_property("position", 0.4)
    save_body(root)
    Bodies(root).set_start("a0001", by="loop")
    ProjectStore(root).record(adapted_at=2.0, adapted_images=45_000)
    for page in pages:
        section = page.get_by_role("region", name="Learning from unlabeled images")
        expect(section).to_contain_text(
            "A head on a0001 is right on 50.0% of the 500 validation images, one on the "
            "pre-trained body on 40.0%, with the same 100 labels."
        )
        expect(section.get_by_role("progressbar")).to_have_count(0)
        found = Axe().run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= page.evaluate("window.innerWidth")
