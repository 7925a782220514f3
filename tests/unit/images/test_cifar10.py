"""Test CIFAR-10 as a pool: 20 + 4 images of two classes, from a local server."""

from __future__ import annotations

import hashlib
import pickle
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from backend.base.errors import PoolError
from backend.images import cifar10
from backend.images.known_labels import true_labels
from backend.images.pool import open_pool


def write_cifar10(served: Path) -> type[CIFAR10]:
    """Write the archive into `served`; return a CIFAR10 with its checksums."""
    batches = served / "cifar-10-batches-py"
    batches.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        (batches / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((batches / name).read_bytes()).hexdigest()

    def batch(n_images: int) -> dict[str, Any]:
        rows = np.repeat(np.arange(n_images, dtype=np.uint8)[:, None], 3072, axis=1)
        return {"data": rows, "labels": [i % 2 for i in range(n_images)]}

    train_list = [["data_batch_1", write("data_batch_1", batch(20))]]
    test_list = [["test_batch", write("test_batch", batch(4))]]
    names_md5 = write("batches.meta", {"label_names": ["airplane", "automobile"]})
    archive = served / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, batches.name)

    attributes = {
        "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest(),
        "train_list": train_list,
        "test_list": test_list,
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": names_md5},
    }
    return type("SmallCIFAR10", (CIFAR10,), attributes)


class Server(ThreadingHTTPServer):
    """Serve a folder and record the requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests = requests = list[str]()

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                super().do_GET()

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[CIFAR10]:
    small = write_cifar10(tmp_path / "served")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", small)
    return small


@pytest.fixture
def server(tmp_path: Path, small_cifar10: type[CIFAR10]) -> Iterator[Server]:
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        small_cifar10.url = f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}"
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["cifar10", "auto"])
def test_cifar10_is_downloaded_once(name: str, server: Server, tmp_path: Path) -> None:
    first = open_pool(name, tmp_path / "data", seed=0)
    n_requests = len(server.requests)
    second = open_pool(name, tmp_path / "data", seed=0)

    assert n_requests > 0
    assert len(server.requests) == n_requests
    assert first.image_ids == second.image_ids
    assert (first.name, first.may_flip, first.notice) == ("cifar10", True, "")
    assert first.classes == ("airplane", "automobile")
    assert len(first.images) == 18
    assert len(first.test.images) == 4
    # Image number 7 of the train split is all sevens, and odd numbers are automobiles.
    assert (first.images[first.positions(["cifar10-00007"])[0]] == 7).all()
    assert true_labels(first)["cifar10-00007"] == "automobile"


def test_an_archive_put_into_the_data_folder_needs_no_network(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "served" / CIFAR10.filename).rename(tmp_path / "data" / CIFAR10.filename)

    assert open_pool("cifar10", tmp_path / "data", seed=0).name == "cifar10"
    assert server.requests == []


@pytest.fixture(params=["refused", "silent", "not there", "damaged"])
def unavailable(
    request: pytest.FixtureRequest,
    server: Server,
    small_cifar10: type[CIFAR10],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Make the download fail; a "silent" server accepts connections and sends nothing."""
    monkeypatch.setattr(cifar10, "CONNECT_TIMEOUT_S", 0.2)
    archive = server.folder / CIFAR10.filename
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if request.param == "silent":
            silent.listen()
        if request.param in ("silent", "refused"):
            small_cifar10.url = f"http://127.0.0.1:{silent.getsockname()[1]}/{CIFAR10.filename}"
        if request.param == "not there":
            archive.unlink()
        if request.param == "damaged":
            archive.write_bytes(archive.read_bytes()[:-100])
        yield


@pytest.mark.usefixtures("unavailable")
def test_auto_falls_back_to_digits_and_says_so(tmp_path: Path) -> None:
    pool = open_pool("auto", tmp_path / "data", seed=0)

    assert pool.name == "digits"
    assert pool.notice.startswith("CIFAR-10 is unavailable (")
    assert "digits" in pool.notice
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("unavailable")
def test_cifar10_by_name_says_what_to_set_instead(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"POOL=digits or POOL=<folder>, or put .* into DATA_DIR="):
        open_pool("cifar10", tmp_path / "data", seed=0)
