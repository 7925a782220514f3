"""Read the images of a team's project from a real Label Studio, however its tasks refer to them."""

from __future__ import annotations

import base64
import io
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from backend.base.progress import Progress
from backend.base.settings import Settings, load_settings
from backend.images import pool as pools
from backend.images.pixels import CHUNK
from backend.images.pool import Pool, open_pool
from backend.images.validation_sample import Validation
from backend.labelstudio.attached_project import AttachedProject
from backend.labelstudio.client import create_project
from backend.labelstudio.task_source import TaskSource
from backend.rounds.observe import read_changes, read_everything_changed
from backend.store.project_record import POOL_INDEX, project_root
from backend.store.project_store import ProjectStore
from tests.integration.conftest import ROOT, Stack
from tests.unit.images.buckets import KEYS, fill_bucket, serve_s3

CONFIG = """
<View><Header value="What is it?"/><Image name="img" value="$photo"/>
<Choices name="kind" toName="img"><Choice value="cat"/><Choice value="dog"/></Choices></View>
"""
BUCKET = "photos"


def image_file(color: tuple[int, int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 24), color).save(file, kind)
    return file.getvalue()


class Team:
    """A team's project, with the actions of its people."""

    def __init__(
        self, api: httpx.Client, stack: Stack, folder: Path, s3: Mapping[str, str]
    ) -> None:
        url, token = stack.settings.label_studio_url, stack.settings.label_studio_api_key
        self.api, self.stack, self.s3 = api, stack, s3
        self.project_id = create_project(
            url, token.get_secret_value(), title="Theirs", label_config=CONFIG
        )
        self.settings: Settings = load_settings(
            _env_file=None, label_studio_url=url, label_studio_api_key=token,
            model_dir=folder / "models", data_dir=folder / "data",
            image_hosts=s3["AWS_ENDPOINT_URL"].removeprefix("http://"),
        )  # fmt: skip
        self.root = project_root(self.settings.model_dir, self.project_id)
        self.store = ProjectStore(self.root)
        self.project = AttachedProject(url, token.get_secret_value(), self.project_id)

    def upload(self, name: str, content: bytes) -> int:
        """Upload a file as people do in the browser; return its task."""
        return self._import(files={"file": (name, content)})

    def add(self, **data: Any) -> int:
        """Import a task from JSON; return its id."""
        return self._import(json=[{"data": data}])

    def _import(self, **body: Any) -> int:
        url = f"/api/projects/{self.project_id}/import"
        made = self.api.post(url, params={"return_task_ids": "true"}, **body)
        return int(made.raise_for_status().json()["task_ids"][0])

    def connect(self, kind: str, **fields: Any) -> None:
        """Connect a storage to the project."""
        body = {"project": self.project_id, "use_blob_urls": True, **fields}
        self.api.post(f"/api/storages/{kind}", json=body).raise_for_status()

    def connect_s3(self, *, presign: bool) -> None:
        self.connect(
            "s3", bucket=BUCKET, s3_endpoint=self.s3["AWS_ENDPOINT_URL"], presign=presign,
            aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-east-1",
        )  # fmt: skip

    def open(self, settings: Settings | None = None, progress: Progress = lambda *_: None) -> Pool:
        """Read all changes, then open the pool as any process does."""
        read_everything_changed(self.project, self.store)
        return open_pool(
            "", self.settings.data_dir, seed=0, index=self.root / POOL_INDEX,
            source=TaskSource(settings or self.settings, self.project_id),
            classes=("cat", "dog"), image_size=16, progress=progress,
        )  # fmt: skip


@pytest.fixture(scope="module")
def s3() -> Iterator[Mapping[str, str]]:
    with serve_s3() as environment:
        yield environment


@pytest.fixture
def team(
    api: httpx.Client, stack: Stack, tmp_path: Path, s3: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Team]:  # fmt: skip
    for name in (*KEYS, "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, s3[name])
    team = Team(api, stack, tmp_path, s3)
    yield team
    api.delete(f"/api/projects/{team.project_id}/").raise_for_status()


def colors(pool: Pool, *task_ids: int) -> list[tuple[int, ...]]:
    """Return the color of each of these tasks' images, as the model sees them."""
    images = pool.images_of([f"ls-{task_id}" for task_id in task_ids])[:]
    return [tuple(int(value) for value in image[8, 8]) for image in images]


def data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def left_out(pool: Pool) -> dict[str, str]:
    assert pool.source is not None
    table = pool.source.index.table
    reasons = zip(table["image_id"].to_pylist(), table["left_out"].to_pylist(), strict=True)
    return {image_id: reason for image_id, reason in reasons if reason}


@pytest.mark.parametrize("presign", [True, False])
def test_images_are_read_from_uploads_local_files_cloud_storage_and_data_uris(
    team: Team, presign: bool
) -> None:
    folder = Path(team.stack.environment["LOCAL_FILES_DOCUMENT_ROOT"]) / "birds"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a b.png").write_bytes(image_file((0, 200, 0)))
    fill_bucket(BUCKET, {"x/ö.png": image_file((0, 0, 200))})
    team.connect("localfiles", path=str(folder))
    team.connect_s3(presign=presign)
    tasks = (
        team.upload("red.png", image_file((200, 0, 0))),
        team.add(photo="/data/local-files/?d=birds/a b.png".replace(" ", "%20")),
        team.add(photo=f"s3://{BUCKET}/x/ö.png", image_id="ls-1", asked_by="validation"),
        team.add(photo=data_uri(image_file((90, 90, 90))), other="text"),
    )
    pool = team.open()
    assert set(pool.image_ids) == {f"ls-{task_id}" for task_id in tasks}
    assert colors(pool, *tasks) == [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)]
    assert pool.n_waiting == 0
    annotations = team.api.get(f"/api/projects/{team.project_id}/").json()
    assert annotations["total_annotations_number"] == 0
    for task_id in tasks:
        assert team.api.get(f"/api/tasks/{task_id}/").json()["predictions"] == []


def test_tasks_whose_images_cannot_be_used_are_told_apart_and_counted(
    team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    good = team.upload("red.png", image_file((200, 0, 0)))
    broken = team.upload("broken.png", b"no image")
    gone = team.add(photo="/data/upload/9999/gone.png")
    refused = team.add(photo="https://images.example.org/a.png?signature=secret")
    unsynced = team.add(photo="s3://unknown/a.png")
    without = team.add(photo="")
    pool = team.open()
    assert pool.image_ids == (f"ls-{good}",)
    assert list(left_out(pool)) == [f"ls-{broken}"]
    assert pool.source is not None
    assert pool.source.n_unreadable == 1  # an upload may be restored
    assert f"'{gone} /data/upload/9999/gone.png'" in caplog.text
    listing = TaskSource(team.settings, team.project_id).list(lambda *_: None)
    reasons = {place.split(" ")[0]: reason for place, reason in listing.left_out.items()}
    assert reasons.keys() == {str(task_id) for task_id in (refused, unsynced, without)}
    assert "images.example.org is not in IMAGE_HOSTS" in reasons[str(refused)]
    assert "connect the storage" in reasons[str(unsynced)]
    assert reasons[str(without)] == "the task has no image"
    assert "secret" not in caplog.text


def test_cloud_storage_on_a_host_that_is_not_allowed_is_never_contacted(team: Team) -> None:
    fill_bucket(BUCKET, {"b.png": image_file((0, 0, 200))})
    team.connect_s3(presign=True)
    good, cloud = (
        team.upload("a.png", image_file((9, 9, 9))),
        team.add(photo=f"s3://{BUCKET}/b.png"),
    )
    pool = team.open(team.settings.model_copy(update={"image_hosts": ()}))
    assert pool.image_ids == (f"ls-{good}",)
    later = team.open()  # once its host is in IMAGE_HOSTS
    assert set(later.image_ids) == {f"ls-{good}", f"ls-{cloud}"}


def test_the_same_image_in_two_tasks_is_one_image(team: Team) -> None:
    content = image_file((200, 0, 0))
    first, second = team.upload("a.png", content), team.add(photo=data_uri(content))
    other = team.upload("b.png", image_file((0, 0, 9)))
    pool = team.open()
    assert len(pool.image_ids) == 2
    assert len({pool.canonical(f"ls-{task_id}") for task_id in (first, second)}) == 1
    assert f"ls-{other}" in pool.image_ids


def test_tasks_that_come_go_or_get_another_image_change_the_pool(team: Team) -> None:
    first, second = (
        team.upload("a.png", image_file((200, 0, 0))),
        team.add(photo=data_uri(image_file((0, 200, 0)))),
    )
    pool = team.open()
    assert colors(pool, first, second) == [(200, 0, 0), (0, 200, 0)]
    revision = team.store.facts().tasks_revision
    third = team.add(photo=data_uri(image_file((0, 0, 200))))
    changed = {"photo": data_uri(image_file((50, 50, 50)))}
    team.api.patch(f"/api/tasks/{second}/", json={"data": changed}).raise_for_status()
    team.api.delete(f"/api/tasks/{first}/").raise_for_status()
    read_everything_changed(team.project, team.store)
    assert team.store.facts().tasks_revision > revision
    pool, changes = pools.rescan(pool, 0, must_list=True, budget_s=60.0)
    assert changes is not None
    assert (changes.added, changes.changed, changes.removed) == (
        (f"ls-{third}",), (f"ls-{second}",), (f"ls-{first}",),
    )  # fmt: skip
    assert colors(pool, second, third) == [(50, 50, 50), (0, 0, 200)]
    assert pool.removed_ids == {f"ls-{first}"}
    assert pool.queryable_ids == {f"ls-{second}", f"ls-{third}"}
    assert pool.known_ids == pool.image_ids  # a deleted task takes its annotations with it


# Opens the pool, and is killed as soon as its first images are stored.
KILLED = """
import os, signal, sys
from pathlib import Path
from backend.base.settings import load_settings
from backend.images.pool import open_pool
from backend.labelstudio.task_source import TaskSource

settings = load_settings(_env_file=None)
open_pool(
    "", settings.data_dir, seed=0, index=Path(sys.argv[2]), image_size=16, classes=("cat", "dog"),
    source=TaskSource(settings, int(sys.argv[1])),
    progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL),
)
"""


def test_fetching_continues_where_a_killed_process_stopped(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [image_file((n, 255 - n, 7)) for n in range(130)]
    for first in range(0, 130, 65):
        files = [(f"f{n}", (f"{n}.png", contents[n])) for n in range(first, first + 65)]
        url = f"/api/projects/{team.project_id}/import"
        team.api.post(url, files=files).raise_for_status()
    read_changes(team.project, team.store)
    for name in ("label_studio_url", "model_dir", "data_dir"):
        monkeypatch.setenv(name.upper(), str(getattr(team.settings, name)))
    monkeypatch.setenv(
        "LABEL_STUDIO_API_KEY", team.settings.label_studio_api_key.get_secret_value()
    )
    arguments = (str(team.project_id), str(team.root / POOL_INDEX))
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    left: list[int] = []
    pool = team.open(progress=lambda _, __, total: left.append(total))
    assert left[0] == 130 - CHUNK
    assert len(pool.image_ids) == 130


def test_annotated_images_are_not_drawn_into_the_validation_sample(team: Team) -> None:
    tasks = [team.add(photo=data_uri(image_file((n, n, n)))) for n in range(20)]
    for task_id in tasks[:10]:
        result = [{"from_name": "kind", "to_name": "img", "type": "choices",
                   "value": {"choices": ["cat"]}}]  # fmt: skip
        body = {"result": result}
        team.api.post(f"/api/tasks/{task_id}/annotations/", json=body).raise_for_status()
    read_changes(team.project, team.store)
    pool = open_pool(
        "", team.settings.data_dir, seed=0, index=team.root / POOL_INDEX,
        source=TaskSource(team.settings, team.project_id), classes=("cat", "dog"), image_size=16,
        validation=Validation("people", 30, frozenset(team.store.annotated_images())),
    )  # fmt: skip
    assert len(pool.sample.image_ids) == 2  # a fifth of the others
    assert not team.store.annotated_images() & set(pool.sample.image_ids)


def test_annotations_of_another_control_have_no_label(team: Team) -> None:
    task_id = team.upload("a.png", image_file((9, 9, 9)))
    for from_name, choice in (("kind", "cat"), ("former", "dog")):
        result = [{"from_name": from_name, "to_name": "img", "type": "choices",
                   "value": {"choices": [choice]}}]  # fmt: skip
        url = f"/api/tasks/{task_id}/annotations/"
        team.api.post(url, json={"result": result}).raise_for_status()
    read_changes(team.project, team.store)
    found = team.store.annotations()[task_id]
    assert [(a.label, a.is_of_other_control, a.image_id) for a in found] == [
        ("cat", False, f"ls-{task_id}"), (None, True, f"ls-{task_id}"),
    ]  # fmt: skip
