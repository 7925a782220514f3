"""List an attached project's tasks from the store, and open their images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.base.errors import ImageError, PoolError
from backend.base.labeling import Task, TaskReading
from backend.base.settings import Settings, load_settings
from backend.labelstudio import task_source
from backend.labelstudio.rows import kept_address
from backend.labelstudio.task_source import TaskSource
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from tests.unit.labelstudio.test_attached_project import LabelStudioStandIn
from tests.unit.labelstudio.test_attached_project import server as server
from tests.unit.labelstudio.test_task_images import Server, data_uri, encoded, red_and_blue, serving

PROJECT = 12


@pytest.fixture
def images() -> Iterator[Server]:
    """A web server with images."""
    with serving() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, server: LabelStudioStandIn, images: Server) -> Settings:
    return load_settings(
        _env_file=None, model_dir=tmp_path, label_studio_api_key="token",
        label_studio_url=f"http://127.0.0.1:{server.server_port}",
        image_hosts=images.url.removeprefix("http://"),
    )  # fmt: skip


@pytest.fixture
def store(settings: Settings) -> ProjectStore:
    return ProjectStore(project_root(settings.model_dir, PROJECT))


def read_tasks(store: ProjectStore, *addresses: str, now: float = 1.0) -> None:
    """Record all tasks of the project as read, numbered from 1."""
    tasks = [
        TaskReading(Task(n, f"ls-{n}", is_open=True, awaits_second_opinion=False), "2026", (),
                    None, kept_address(address))
        for n, address in enumerate(addresses, start=1)
    ]  # fmt: skip
    store.record_tasks(tasks, now)
    store.record_reading(now, is_full=True)


def serve_tasks(server: LabelStudioStandIn, addresses: dict[int, str]) -> None:
    tasks = [{"id": n, "data": {"image": address}} for n, address in addresses.items()]
    server.answers["/api/tasks/"] = {"tasks": tasks, "total": len(tasks)}


def test_every_task_with_a_usable_address_is_listed(
    settings: Settings, store: ProjectStore
) -> None:
    uri = data_uri(b"x")
    read_tasks(store, "/data/upload/7/a.png", "", "http://10.0.0.1/a.png?key=secret", uri)
    source = TaskSource(settings, PROJECT)
    listing = source.list(lambda *_: None)
    assert source.name == f"{settings.label_studio_url}/projects/12"
    assert [image.image_id for image in listing.images] == ["ls-1", "ls-4"]
    assert [image.location for image in listing.images] == [
        "1 /data/upload/7/a.png", f"4 {kept_address(uri)}",
    ]  # fmt: skip
    assert [*listing.left_out.values()] == [
        "the task has no image",
        "requests to other servers are not allowed: 10.0.0.1 is not in IMAGE_HOSTS",
    ]
    assert listing.classes == ()


def test_a_moved_image_has_another_stamp(settings: Settings, store: ProjectStore) -> None:
    read_tasks(store, "/data/upload/7/a.png", "/data/upload/7/b.png")
    before = TaskSource(settings, PROJECT).list(lambda *_: None).images
    read_tasks(store, "/data/upload/7/a.png", "/data/upload/7/c.png", now=2.0)
    after = TaskSource(settings, PROJECT).list(lambda *_: None).images
    assert [b.modified == a.modified for b, a in zip(before, after, strict=True)] == [True, False]


def test_tasks_that_were_never_read_are_not_an_empty_pool(
    settings: Settings, store: ProjectStore
) -> None:
    with pytest.raises(PoolError, match="have not been read yet"):
        TaskSource(settings, PROJECT).list(lambda *_: None)
    read_tasks(store, "", "")
    with pytest.raises(PoolError, match=r"no task .* 2 of 2 files left out: 2 \(the task has no"):
        TaskSource(settings, PROJECT).list(lambda *_: None)
    read_tasks(store, now=2.0)
    with pytest.raises(PoolError, match="the project has no tasks"):
        TaskSource(settings, PROJECT).list(lambda *_: None)


def test_another_store_may_hold_the_tasks(settings: Settings, tmp_path: Path) -> None:
    plan = ProjectStore(tmp_path / "plan")
    read_tasks(plan, "/data/upload/7/a.png")
    assert len(TaskSource(settings, PROJECT, plan).list(lambda *_: None).images) == 1
    assert not project_root(settings.model_dir, PROJECT).exists()


def test_the_image_in_a_data_uri_is_read_from_its_task(
    settings: Settings, server: LabelStudioStandIn
) -> None:
    content = encoded(red_and_blue())
    uri = data_uri(content)
    serve_tasks(server, {5: uri})
    source = TaskSource(settings, PROJECT)
    assert source.open(f"5 {kept_address(uri)}").read() == content
    with pytest.raises(OSError, match="has changed since"):
        source.open(f"5 {kept_address(data_uri(b'other'))}")


def test_a_very_long_address_is_read_from_its_task_and_checked_like_any_other(
    settings: Settings, server: LabelStudioStandIn
) -> None:
    long = f"https://evil.org/{'x' * 3000}"
    serve_tasks(server, {5: long})
    with pytest.raises(ImageError, match=r"evil.org is not in IMAGE_HOSTS"):
        TaskSource(settings, PROJECT).open(f"5 {kept_address(long)}")


def test_a_deleted_task_or_a_silent_server_may_come_back(
    settings: Settings, server: LabelStudioStandIn
) -> None:
    serve_tasks(server, {})
    with pytest.raises(OSError, match="has changed since"):
        TaskSource(settings, PROJECT).open("5 digest:0123456789abcdef")
    silent = settings.model_copy(update={"label_studio_url": "http://127.0.0.1:9"})
    with pytest.raises(OSError, match="cannot be reached"):
        TaskSource(silent, PROJECT).open("5 digest:0123456789abcdef")


def test_an_image_is_fetched_once_while_it_is_measured_and_decoded(
    settings: Settings, images: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_source, "KEPT_BYTES", 25)
    source = TaskSource(settings, PROJECT)
    urls = [images.serve(f"/{name}.png", 10 * name.encode()) for name in "abc"]
    for url in (urls[0], urls[0], urls[1], urls[0], urls[2], urls[0]):
        source.open(f"1 {url}")
    assert [path for path, _ in images.requests] == ["/a.png", "/b.png", "/c.png", "/a.png"]


def test_data_uris_are_fetched_together_before_they_are_opened(
    settings: Settings, server: LabelStudioStandIn
) -> None:
    uris = {n: data_uri(f"image {n}".encode()) for n in range(1, 21)}
    uris[3] = "data:image/png;base64,***"
    locations = [f"{n} {kept_address(uri)}" for n, uri in uris.items()]
    source = TaskSource(settings, PROJECT)
    serve_tasks(server, {**uris, 2: data_uri(b"another")})
    source.prefetch([*locations, "21 /data/upload/7/a.png"])
    read = [body for _, path, body in server.requests if path == "/api/tasks/"]
    assert len(read) == 2
    assert all("21" not in body["query"] for body in read)
    server.answers.pop("/api/tasks/")
    assert source.open(locations[0]).read() == b"image 1"
    assert source.open(locations[19]).read() == b"image 20"
    serve_tasks(server, {})
    for changed_or_broken in (1, 2):
        with pytest.raises(OSError, match="has changed since"):
            source.open(locations[changed_or_broken])
    silent = settings.model_copy(update={"label_studio_url": "http://127.0.0.1:9"})
    TaskSource(silent, PROJECT).prefetch(locations)  # `open` reports the error
