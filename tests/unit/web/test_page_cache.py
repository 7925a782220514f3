"""A page is rendered at most once a second, and a slow rendering blocks no other request."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from backend.web.page_cache import Page, PageCache
from tests.patience import PATIENCE_S


class Renderer:
    """Renders "page 1", "page 2" and so on. From `slow_from` on, a page waits for `go_on`."""

    def __init__(self, slow_from: int) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.n_rendered = 0
        self._slow_from = slow_from

    def render(self, _: int | None) -> Page:
        self.n_rendered += 1
        if self.n_rendered >= self._slow_from:
            self.begun.set()
            assert self.go_on.wait(PATIENCE_S)
        return Page(f"page {self.n_rendered}", 200)


@pytest.fixture(autouse=True)
def _long_lived_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.web.page_cache.PAGE_LIFETIME_S", 3600.0)


def expire(pages: PageCache) -> None:
    for project_id, page in pages._pages.items():
        pages._pages[project_id] = replace(page, rendered_at=page.rendered_at - 7200)


def test_during_a_slow_rendering_other_requests_get_the_last_page_without_waiting() -> None:
    renderer = Renderer(slow_from=2)
    pages = PageCache(renderer.render)
    assert pages.page(7).html == "page 1"
    expire(pages)
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(pages.page, 7)
        assert renderer.begun.wait(PATIENCE_S)
        assert {pages.page(7).html for _ in range(5)} == {"page 1"}
        renderer.go_on.set()
        assert slow.result().html == "page 2"
    assert pages.page(7).html == "page 2"
    assert renderer.n_rendered == 2


def test_requests_before_the_first_page_share_one_rendering() -> None:
    renderer = Renderer(slow_from=1)
    pages = PageCache(renderer.render)
    with ThreadPoolExecutor(5) as threads:
        waiting = [threads.submit(pages.page, None) for _ in range(5)]
        assert renderer.begun.wait(PATIENCE_S)
        renderer.go_on.set()
        assert {future.result().html for future in waiting} == {"page 1"}
    assert renderer.n_rendered == 1


def test_after_a_change_every_page_is_rendered_again() -> None:
    pages = PageCache(Renderer(slow_from=9).render)
    assert (pages.page(7).html, pages.page(8).html, pages.page(7).html) == (
        "page 1", "page 2", "page 1",
    )  # fmt: skip
    pages.clear()
    assert (pages.page(7).html, pages.page(8).html) == ("page 3", "page 4")


def test_the_next_request_renders_again_if_a_rendering_failed() -> None:
    pages = PageCache(Renderer(slow_from=9).render)
    pages._render = lambda _: 1 / 0  # type: ignore[assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        pages.page(7)
    pages._render = lambda _: Page("page", 200)
    assert pages.page(7).html == "page"
