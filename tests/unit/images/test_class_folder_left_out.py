"""Test what is left out of a class folder, and that it is named with its reason."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from backend.base.errors import PoolError
from backend.images import class_folder
from backend.images.digest import digest
from backend.images.pool import Pool, open_pool, true_labels
from backend.labelstudio.label_config import label_config_xml, parse_label_config
from tests.unit.images.image_folders import make_folder, save_image

CAFE = os.fsdecode(b"caf\xe9")  # Latin-1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three images, and a test image of each."""
    return make_folder(tmp_path / "images", 3)


def opened(folder: Path, max_pixels: int = 50_000_000) -> Pool:
    return open_pool(str(folder), folder.parent, seed=0, max_pixels=max_pixels)


def left_out(pool: Pool) -> list[str]:
    skipped: list[str] = json.loads((pool.folder / "meta.json").read_text())["skipped"]
    return skipped


def assert_is_named(
    caplog: pytest.LogCaptureFixture, pool: Pool, path: str, shown: str, why: str
) -> None:
    """One line names the folder, the path as it can be printed, and the reason."""
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith(f"pool {pool.name}: 1 left out: '{shown}' (")
    assert why in line
    assert line.isprintable()
    assert left_out(pool) == [path]
    assert pool.classes == ("cat", "dog")
    assert Counter(true_labels(pool).values()) == {"cat": 3, "dog": 3}


@pytest.mark.parametrize(
    ("name", "shown", "why"),
    [
        (CAFE, r"train/caf\udce9", "not UTF-8"),
        ("be\x07ll", r"train/be\x07ll", "control character"),
        ("two\nlines", r"train/two\nlines", "control character"),
        ("c1\x85", r"train/c1\x85", "control character"),
        ("no\uffffne", r"train/no\uffffne", "control character"),
    ],
)
def test_a_class_name_that_label_studio_cannot_hold_is_named_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str, shown: str, why: str
) -> None:
    save_image(folder / "train" / name / "0.png")
    pool = opened(folder)
    assert_is_named(caplog, pool, f"train/{name}", shown, why)


def test_class_names_in_any_language_are_kept(folder: Path) -> None:
    names = ("猫", "می‌خواهم", "café & co", 'a"b', "👩‍🌾", "it's")
    for name in names:
        save_image(folder / "train" / name / "0.png")
    pool = opened(folder)
    assert set(pool.classes) == {"cat", "dog", *names}
    assert left_out(pool) == []
    assert set(parse_label_config(label_config_xml(pool.classes)).choices) == set(pool.classes)


def test_an_image_whose_name_is_not_utf8_is_kept(folder: Path) -> None:
    save_image(folder / "train/cat" / f"{CAFE}.png")
    pool = opened(folder)
    assert Counter(true_labels(pool).values()) == {"cat": 4, "dog": 3}
    assert all(pool.data_uri(i).startswith("data:image/png") for i in pool.image_ids)
    (folder / "train/cat" / f"{CAFE}.png").unlink()
    with pytest.raises(PoolError, match="cannot read the image") as caught:
        pool.data_uri(digest(f"train/cat/{CAFE}.png"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("path", "target", "why"),
    [
        ("train/loop", "loop", "Too many levels of symbolic links"),
        ("train/cat/loop.png", "loop.png", "Too many levels of symbolic links"),
        ("train/gone", "nowhere", "No such file"),
        ("test/dog/gone.jpg", "nowhere.jpg", "No such file"),
    ],
)
def test_a_looping_or_dangling_link_is_named_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture, path: str, target: str, why: str
) -> None:
    (folder / path).symlink_to(target)
    assert_is_named(caplog, opened(folder), path, path, why)


def test_an_image_name_that_is_not_a_file_is_named_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(folder / "train/cat/pipe.jpg")
    (folder / "train/dog/album.png").mkdir()
    pool = opened(folder)
    assert left_out(pool) == ["train/cat/pipe.jpg", "train/dog/album.png"]
    assert caplog.text.count("(not a regular file)") == 2


def test_a_class_that_links_to_its_own_parent_does_not_loop(folder: Path) -> None:
    (folder / "train/up").symlink_to("..")
    assert opened(folder).classes == ("cat", "dog")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of the user nobody, since root can read everything."""
    with tempfile.TemporaryDirectory() as made:
        own = Path(made)
        if os.geteuid() != 0:
            yield own
            return
        os.chown(own, 65534, 65534)
        os.seteuid(65534)
        try:
            yield own
        finally:
            os.seteuid(0)


def test_an_unreadable_class_is_named_and_left_out(
    as_nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(as_nobody / "images", 3)
    save_image(folder / "train/secret/0.png")
    (folder / "train/secret").chmod(0)
    assert_is_named(caplog, opened(folder), "train/secret", "train/secret", "Permission denied")
    (folder / "train/secret").chmod(0o700)


def test_an_unreadable_image_is_named_and_left_out(
    as_nobody: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(as_nobody / "images", 3)
    save_image(folder / "train/cat/secret.png").chmod(0)
    pool = opened(folder)
    assert_is_named(
        caplog, pool, "train/cat/secret.png", "train/cat/secret.png", "Permission denied"
    )


def test_an_unreadable_split_is_named_instead_of_data_dir(as_nobody: Path) -> None:
    folder = make_folder(as_nobody / "images", 3)
    (folder / "train").chmod(0)
    with pytest.raises(PoolError, match="its folder train cannot be read") as caught:
        opened(folder)
    assert "DATA_DIR" not in str(caught.value)
    (folder / "train").chmod(0o700)


def test_a_pool_that_is_a_link_loop_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(PoolError, match=r"POOL=.*loop"):
        open_pool(str(tmp_path / "loop"), tmp_path, seed=0)


def test_an_image_deleted_after_the_scan_is_named_and_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries_of = class_folder._entries

    def delete_found_image(at: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
        found = entries_of(at)
        if Path(at).name == "cat":
            (folder / "train/cat/vanishing.png").unlink(missing_ok=True)
        return found

    save_image(folder / "train/cat/vanishing.png")
    monkeypatch.setattr(class_folder, "_entries", delete_found_image)
    pool = opened(folder)
    path = "train/cat/vanishing.png"
    assert_is_named(caplog, pool, path, path, "No such file")


def test_too_few_readable_classes_name_what_was_left_out(tmp_path: Path) -> None:
    save_image(tmp_path / "images/train/cat/0.png")
    save_image(tmp_path / "images/train" / CAFE / "0.png")
    with pytest.raises(PoolError, match=r"images: \['cat'\]; left out: 'train/caf.udce9' \(.*UTF"):
        opened(tmp_path / "images")


# MAX_IMAGE_PIXELS


def test_images_over_the_limit_are_named_and_a_higher_limit_includes_them(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("1", (2000, 1000)).save(folder / "train/cat/large.png")
    pool = opened(folder, 1_999_999)
    why = "2,000 x 1,000 pixels, more than 1,999,999 (see MAX_IMAGE_PIXELS)"
    assert_is_named(caplog, pool, "train/cat/large.png", "train/cat/large.png", why)
    assert pool.images.shape[1:] == (8, 8, 3)  # the large image does not count

    with_large = opened(folder, 2_000_000)

    assert Counter(true_labels(with_large).values()) == {"cat": 4, "dog": 3}
    assert left_out(with_large) == []


def test_an_original_that_grew_over_the_limit_is_not_pushed(folder: Path) -> None:
    pool = opened(folder, 1_000_000)
    for path in folder.glob("train/*/*.png"):
        Image.new("1", (2000, 1000)).save(path)
    with pytest.raises(PoolError, match="2,000 x 1,000 pixels, more than 1,000,000"):
        pool.data_uri(pool.image_ids[0])
