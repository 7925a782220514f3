"""Folders of a few images that a person can check; a small CIFAR-10 from a real server."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import logging
import os
import pickle
import resource
import socket
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from torchvision.datasets import CIFAR10

from backend.base.errors import PoolError
from backend.images import pool_folder, pool_sources
from backend.images.pool import Pool, open_pool, seed_labels, true_labels

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
REPO = Path(__file__).parents[3]


def save_image(
    path: Path, color: tuple[int, int, int] = RED, size: tuple[int, int] = (8, 8)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, compress_level=0)  # equal sizes make equal lengths
    return path


def make_folder(root: Path, n_per_class: int = 20) -> Path:
    """Cats are red and dogs are green, and each image's blue is its number."""
    for i in range(n_per_class):
        save_image(root / f"train/cat/{i}.png", (255, 0, i))
        save_image(root / f"train/dog/{i}.png", (0, 255, i))
    save_image(root / "test/cat/0.png", (255, 0, 200))
    save_image(root / "test/dog/0.png", (0, 255, 200))
    return root


def class_by_color(pixels: np.ndarray[Any, Any]) -> str:
    return "cat" if pixels[0, 0, 0] == 255 else "dog"


def decode_uri(uri: str) -> tuple[str, bytes]:
    mime, content = uri.removeprefix("data:").split(";base64,")
    return mime, base64.b64decode(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def pool(folder: Path, tmp_path: Path) -> Pool:
    return open_pool(str(folder), tmp_path, seed=0)


# A folder


def test_rows_ids_and_labels_of_a_folder_belong_together(pool: Pool, folder: Path) -> None:
    by_id = {
        pool_sources.image_id(str(path.relative_to(folder))): path
        for path in folder.glob("train/*/*.png")
    }
    labels = true_labels(pool)

    assert pool.classes == ("cat", "dog")
    assert len(pool.image_ids) == len(pool.images) == 36  # 40 less a tenth
    assert list(labels) == list(pool.image_ids)
    for i, row in zip(pool.image_ids, pool.images, strict=True):
        assert np.array_equal(row, np.asarray(Image.open(by_id[i])))
        assert labels[i] == class_by_color(row)
    assert [pool.classes[k] for k in pool.test.labels] == [
        class_by_color(row) for row in pool.test.images
    ]


def test_image_ids_do_not_tell_the_class_nor_does_their_order(pool: Pool) -> None:
    labels = list(true_labels(pool).values())
    n_changes = sum(one != other for one, other in itertools.pairwise(labels))

    assert all(set(i) <= set("0123456789abcdef") and len(i) == 16 for i in pool.image_ids)
    assert n_changes >= 12  # sorted by class it would be 1, and at random about 18


def test_positions_are_the_rows_of_the_ids_in_the_order_asked(pool: Pool) -> None:
    asked = [pool.image_ids[5], pool.image_ids[0], pool.image_ids[35]]

    assert pool.positions(asked).tolist() == [5, 0, 35]
    with pytest.raises(PoolError, match="no image 'cat-7' in the pool"):
        pool.positions(["cat-7"])


def test_suffixes_in_any_case_count_and_hidden_or_foreign_files_do_not(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.Jpeg", "c.PNG", "._a.jpg", "notes.gif"):
        save_image(tmp_path / "images/train/cat" / name)
    save_image(tmp_path / "images/train/dog/a.png")
    save_image(tmp_path / "images/train/.thumbnails/a.png")
    (tmp_path / "images/train/dog/lost.png").symlink_to("nowhere.png")

    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    assert Counter(true_labels(pool).values()) == {"cat": 3, "dog": 1}
    assert pool.classes == ("cat", "dog")


def test_images_of_mixed_sizes_are_cropped_to_their_middle(tmp_path: Path) -> None:
    stripes = Image.new("RGB", (300, 100), RED)
    stripes.paste(GREEN, (90, 0, 210, 100))
    (tmp_path / "images/train/cat").mkdir(parents=True)
    stripes.save(tmp_path / "images/train/cat/wide.png")
    save_image(tmp_path / "images/train/dog/small.png", BLUE, (10, 10))

    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    assert pool.images.shape == (2, 96, 96, 3)
    cat = pool.images[list(true_labels(pool).values()).index("cat")]
    assert (cat == GREEN).all()


def test_images_of_one_size_keep_it_unless_it_is_large(tmp_path: Path) -> None:
    for size in ((20, 10), (300, 300)):
        for name in ("cat", "dog"):
            save_image(tmp_path / f"{size}/train/{name}/0.png", size=size)

    assert open_pool(f"{tmp_path}/(20, 10)", tmp_path, seed=0).images.shape == (2, 10, 20, 3)
    assert open_pool(f"{tmp_path}/(300, 300)", tmp_path, seed=0).images.shape == (2, 96, 96, 3)


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    lying = Image.new("RGB", (20, 10), RED)
    lying.paste(BLUE, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise: left comes to the top
    for name in ("cat", "dog"):
        (tmp_path / "images/train" / name).mkdir(parents=True)
        lying.save(tmp_path / f"images/train/{name}/0.png", exif=exif)

    images = open_pool(str(tmp_path / "images"), tmp_path, seed=0).images

    assert images.shape == (2, 20, 10, 3)
    assert (images[:, :10] == BLUE).all()
    assert (images[:, 10:] == RED).all()


def test_transparent_and_16_bit_images_look_as_in_a_browser(tmp_path: Path) -> None:
    for name in ("glass", "grey"):
        (tmp_path / "images/train" / name).mkdir(parents=True)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "images/train/glass/0.png")
    grey = np.full((8, 8), 0x80FF, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "images/train/grey/0.png")

    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    row = dict(zip(true_labels(pool).values(), pool.images, strict=True))
    assert (row["glass"] == 255).all()
    assert (row["grey"] == 128).all()


def test_broken_images_are_left_out_and_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (folder / "train/cat/3.png").read_bytes()
    (folder / "train/cat/3.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train/dog/4.png").write_text("not an image")
    (folder / "test/cat/0.png").write_bytes(b"")

    with caplog.at_level(logging.WARNING):
        pool = open_pool(str(folder), tmp_path, seed=0)

    names = ["train/cat/3.png", "train/dog/4.png", "test/cat/0.png"]
    assert all(name in caplog.text for name in names)
    assert set(json.loads((pool.folder / "meta.json").read_text())["skipped"]) == set(names)
    assert len(pool.images) + len(pool.validation.images) == 38
    assert len(pool.test.images) == 1
    for row, label in zip(pool.images, true_labels(pool).values(), strict=True):
        assert class_by_color(row) == label


def test_decoding_a_folder_tells_how_far_it_is(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    open_pool(str(folder), tmp_path, seed=0, progress=lambda *now: told.append(now))
    ends = {phase: (done, total) for phase, done, total in told}
    assert ends == {
        "measuring images": (42, 42),
        "decoding train images": (40, 40),
        "decoding test images": (2, 2),
    }
    assert len(told) == 84


def test_a_folder_without_test_images_has_an_empty_test_split(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save_image(tmp_path / f"images/train/{name}/0.png")

    test = open_pool(str(tmp_path / "images"), tmp_path, seed=0).test

    assert test.images.shape == (0, 8, 8, 3)
    assert test.labels.shape == (0,)


def test_test_classes_that_train_does_not_have_are_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_image(folder / "test/zebra/0.png")

    pool = open_pool(str(folder), tmp_path, seed=0)

    assert pool.classes == ("cat", "dog")
    assert len(pool.test.images) == 2
    assert "zebra" in caplog.text


@pytest.mark.parametrize("paths", [[], ["train/cat/0.png"], ["cat/0.png", "dog/0.png"]])
def test_a_folder_of_another_layout_is_explained(tmp_path: Path, paths: list[str]) -> None:
    (tmp_path / "images/train/empty").mkdir(parents=True)
    for path in paths:
        save_image(tmp_path / "images" / path)

    with pytest.raises(PoolError, match=r"holds train/<class>/.* two or more classes"):
        open_pool(str(tmp_path / "images"), tmp_path, seed=0)


def test_a_folder_in_which_only_one_class_can_be_read_is_explained(tmp_path: Path) -> None:
    save_image(tmp_path / "images/train/cat/0.png")
    save_image(tmp_path / "images/train/dog/0.png").write_text("not an image")

    with pytest.raises(PoolError, match=r"with readable images: \['cat'\]"):
        open_pool(str(tmp_path / "images"), tmp_path, seed=0)


def test_a_name_that_is_neither_a_source_nor_a_folder_says_what_is_allowed(
    tmp_path: Path,
) -> None:
    with pytest.raises(PoolError, match="POOL=cifar: no such folder; allowed are auto, cifar10"):
        open_pool("cifar", tmp_path, seed=0)


# The splits


def test_validation_is_a_balanced_tenth_outside_the_pool(pool: Pool) -> None:
    assert pool.validation.labels.tolist().count(0) == 2
    assert pool.validation.labels.tolist().count(1) == 2
    held_out = {row.tobytes() for row in pool.validation.images}
    asked = {row.tobytes() for row in pool.images}
    assert len(held_out) == 4
    assert len(held_out | asked) == 40
    for row, label in zip(pool.validation.images, pool.validation.labels, strict=True):
        assert class_by_color(row) == pool.classes[label]


def test_the_same_seed_holds_out_the_same_images_wherever_they_lie(tmp_path: Path) -> None:
    here = make_folder(tmp_path / "here")
    there = tmp_path / "there"
    for path in sorted(here.rglob("*.png"), reverse=True):  # written in another order
        save_image(there / path.relative_to(here)).write_bytes(path.read_bytes())

    first = open_pool(str(here), tmp_path / "data", seed=7)
    second = open_pool(str(there), tmp_path / "other", seed=7)

    assert first.image_ids == second.image_ids
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.validation.images, second.validation.images)


def test_another_seed_holds_out_others_without_decoding_again(
    pool: Pool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pool_folder, "_decode")

    other = open_pool(str(folder), tmp_path, seed=1)

    assert set(other.image_ids) != set(pool.image_ids)
    again = open_pool(str(folder), tmp_path, seed=0)
    assert again.image_ids == pool.image_ids
    assert np.array_equal(again.images, pool.images)


def test_a_rare_class_keeps_half_of_its_images_askable(tmp_path: Path) -> None:
    for i in range(58):
        save_image(tmp_path / f"images/train/cat/{i}.png")
    for i in range(2):
        save_image(tmp_path / f"images/train/dog/{i}.png", GREEN)

    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    assert Counter(pool.validation.labels.tolist()) == {0: 5, 1: 1}


def test_images_added_later_take_none_out_of_the_pool(folder: Path, tmp_path: Path) -> None:
    before = open_pool(str(folder), tmp_path, seed=0)
    for i in range(9):  # 49 images hold out 4, as 40 do
        save_image(folder / f"train/cat/new-{i}.png", BLUE)

    after = open_pool(str(folder), tmp_path, seed=0)

    assert len(after.image_ids) == 45
    assert set(before.image_ids) < set(after.image_ids)


def test_writing_into_the_images_leaves_the_cache_as_it_was(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    before = pool.images.copy()
    pool.images[:] = 0

    assert np.array_equal(open_pool(str(folder), tmp_path, seed=0).images, before)
    assert isinstance(pool.images, np.memmap)


@pytest.mark.parametrize(("count", "per_class"), [(10, [5, 5]), (11, [5, 6]), (0, [])])
def test_seed_labels_are_true_balanced_and_seeded(
    pool: Pool, count: int, per_class: list[int]
) -> None:
    labels = seed_labels(pool, count, 3)

    assert sorted(Counter(labels.values()).values()) == per_class
    assert labels.items() <= true_labels(pool).items()
    assert seed_labels(pool, count, 3) == labels
    assert count == 0 or seed_labels(pool, count, 4) != labels


def test_more_seed_labels_than_images_are_refused(pool: Pool) -> None:
    assert len(seed_labels(pool, 36, 0)) == 36
    with pytest.raises(PoolError, match="SEED_LABELS=37: the pool has only 36 images"):
        seed_labels(pool, 37, 0)


# The cache


def test_changed_files_are_decoded_again_and_the_outdated_cache_goes(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    cats = pool_sources.image_id("train/cat/0.png")
    stat = (folder / "train/cat/0.png").stat()
    save_image(folder / "train/cat/0.png", (255, 0, 99))
    os.utime(folder / "train/cat/0.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))

    changed = open_pool(str(folder), tmp_path, seed=0)

    assert changed.images[changed.positions([cats])[0], 0, 0].tolist() == [255, 0, 99]
    assert not pool.folder.exists()
    assert pool.images[pool.positions([cats])[0], 0, 0].tolist() == [255, 0, 0]


CHILD = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from backend.images.pool import open_pool
if sys.argv[3] == "killed":  # 42 images were measured, 40 of train decoded: this is test's first
    opened, original = [], Image.open
    def open_until_killed(path, **options):
        opened.append(path)
        if len(opened) == 83:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, **options)
    Image.open = open_until_killed
print(*open_pool(sys.argv[1], Path(sys.argv[2]), seed=0).image_ids)
"""


def start_child(folder: Path, data_dir: Path, fate: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(data_dir), fate],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_decode_leaves_nothing_that_a_later_one_trips_over(
    folder: Path, tmp_path: Path
) -> None:
    killed = start_child(folder, tmp_path, "killed")
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    assert list(tmp_path.glob("pools/*.draft/train.npy"))

    pool = open_pool(str(folder), tmp_path, seed=0)

    assert len(pool.images) == 36
    assert not list(tmp_path.glob("pools/*.draft"))


def test_two_that_open_at_once_get_the_same_pool(folder: Path, tmp_path: Path) -> None:
    children = [start_child(folder, tmp_path) for _ in range(2)]
    printed = [child.communicate(timeout=60)[0] for child in children]

    assert printed[0].split() == printed[1].split()
    assert printed[0].split() == list(open_pool(str(folder), tmp_path, seed=0).image_ids)


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_cache(
    folder: Path, tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # the images need 7,680 bytes
    try:
        with pytest.raises(PoolError, match=r"DATA_DIR=.* has space left"):
            open_pool(str(folder), tmp_path, seed=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert [path.suffix for path in (tmp_path / "pools").iterdir()] == [".lock"]
    assert len(open_pool(str(folder), tmp_path, seed=0).images) == 36


@pytest.mark.parametrize("file", ["train.npy", "meta.json", "index.json", "test_labels.npy"])
def test_a_damaged_cache_is_named(pool: Pool, folder: Path, tmp_path: Path, file: str) -> None:
    whole = (pool.folder / file).read_bytes()
    (pool.folder / file).write_bytes(whole[: len(whole) // 2])

    with pytest.raises(PoolError, match=r"the cache .*folder-.* is damaged .* delete it"):
        open_pool(str(folder), tmp_path, seed=0)


def test_labels_of_a_cache_that_was_deleted_are_a_clear_error(pool: Pool) -> None:
    (pool.folder / "train_labels.npy").unlink()

    with pytest.raises(PoolError, match="start again"):
        true_labels(pool)


# What a task carries


def test_a_small_original_travels_as_it_is(tmp_path: Path) -> None:
    cat = save_image(tmp_path / "images/train/cat/0.jpg")
    dog = save_image(tmp_path / "images/train/dog/really-a-png.jpg")
    Image.new("RGB", (8, 8)).save(dog, "PNG")
    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    uri = {label: pool.data_uri(i) for i, label in true_labels(pool).items()}

    assert decode_uri(uri["cat"]) == ("image/jpeg", cat.read_bytes())
    assert decode_uri(uri["dog"]) == ("image/png", dog.read_bytes())


def test_a_large_original_travels_as_an_upright_jpeg_of_1024_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    save_image(tmp_path / "images/train/cat/heavy.png")
    Image.fromarray(noise).save(tmp_path / "images/train/cat/heavy.png")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    save_image(tmp_path / "images/train/dog/wide.jpg")
    Image.new("RGB", (2048, 512), BLUE).save(tmp_path / "images/train/dog/wide.jpg", exif=exif)
    pool = open_pool(str(tmp_path / "images"), tmp_path, seed=0)

    sizes = {}
    for i, label in true_labels(pool).items():
        mime, content = decode_uri(pool.data_uri(i))
        assert mime == "image/jpeg"
        image = Image.open(io.BytesIO(content))
        assert image.getexif().get(ExifTags.Base.Orientation) is None
        sizes[label] = (image.format, image.size)

    assert sizes == {"cat": ("JPEG", (700, 700)), "dog": ("JPEG", (256, 1024))}


def test_an_original_that_is_gone_is_named(pool: Pool, folder: Path) -> None:
    for path in folder.glob("train/*/*.png"):
        path.unlink()

    with pytest.raises(PoolError, match=r"cannot read the image .*train/(cat|dog)/\d+.png"):
        pool.data_uri(pool.image_ids[0])


# Digits


def test_digits_are_rgb_with_a_balanced_fifth_for_testing_and_must_not_be_flipped(
    tmp_path: Path,
) -> None:
    pool = open_pool("digits", tmp_path, seed=0)

    assert pool.classes == tuple("0123456789")
    assert pool.test.images.shape == (359, 32, 32, 3)
    assert set(Counter(pool.test.labels.tolist()).values()) == {35, 36}
    assert Counter(pool.validation.labels.tolist()).total() == 143
    assert pool.images.shape == (1797 - 359 - 143, 32, 32, 3)
    assert pool.images.max() == 255
    assert (pool.name, pool.may_flip, pool.notice) == ("digits", False, "")


def test_a_digits_task_carries_its_array_as_png(tmp_path: Path) -> None:
    pool = open_pool("digits", tmp_path, seed=0)
    image_id = pool.image_ids[-1]

    mime, content = decode_uri(pool.data_uri(image_id))

    assert mime == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pool.images[-1])
    assert image_id.startswith("digits-")
    assert len(image_id) == len("digits-0042")


# CIFAR-10, in small: 20 + 4 images, two classes


def write_cifar10(served: Path) -> type[CIFAR10]:
    """Put the archive into `served`; a CIFAR10 that knows its checksums."""
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
    """Serves a folder, and remembers what was asked for."""

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


def test_cifar10_put_into_the_data_folder_by_hand_needs_no_network(
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
    """The ways in which a download fails; "silent" takes connections and says nothing."""
    monkeypatch.setattr(pool_sources, "CONNECT_TIMEOUT_S", 0.2)
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
def test_auto_goes_on_with_digits_and_says_so(tmp_path: Path) -> None:
    pool = open_pool("auto", tmp_path / "data", seed=0)

    assert pool.name == "digits"
    assert pool.notice.startswith("CIFAR-10 could not be had (")
    assert "digits" in pool.notice
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("unavailable")
def test_cifar10_by_name_says_what_to_set_instead(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"POOL=digits or POOL=<folder>, or put .* into DATA_DIR="):
        open_pool("cifar10", tmp_path / "data", seed=0)
