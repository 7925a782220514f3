"""Test which images of a folder are listed, and that all other files are named with the reason."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.base.errors import PoolError
from backend.images import folder as folder_module
from backend.images.digest import digest
from backend.images.folder import Folder
from backend.images.listing import Listing
from tests.unit.images.image_folders import make_folder, save_image


def listed(folder: Path) -> Listing:
    return Folder(folder).list(lambda *_: None)


def paths(listing: Listing) -> list[str]:
    return sorted(image.location for image in listing.images)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three images, and a test image of each."""
    return make_folder(tmp_path / "images", 3)


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


# Unlabeled folders


def test_images_of_all_formats_at_any_depth_are_unlabeled(tmp_path: Path) -> None:
    for path in ("a.jpg", "b/c.JPEG", "b/c/d.Png", "e/f/g/h.webp", "1.bmp", "2.gif", "3.tif"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("12345")
    (tmp_path / "b/4.TIFF").write_text("123456")

    listing = listed(tmp_path)

    assert len(listing.images) == 8
    assert {(image.split, image.label) for image in listing.images} == {("", "")}
    assert listing.classes == ()
    assert not listing.left_out
    [tiff] = [image for image in listing.images if image.location == "b/4.TIFF"]
    assert tiff.image_id == digest("b/4.TIFF")
    assert tiff.size == 6
    assert tiff.modified == str((tmp_path / "b/4.TIFF").stat().st_mtime_ns)


def test_images_are_in_the_order_of_their_ids(folder: Path) -> None:
    ids = [image.image_id for image in listed(folder).images]
    assert ids == sorted(ids)
    assert len(set(ids)) == 8


def test_hidden_files_are_ignored_and_others_are_left_out(tmp_path: Path) -> None:
    for path in (".hidden.jpg", ".thumbnails/a.jpg", "a.jpg", "b.heic", "notes", "sub/c.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("1")
    listing = listed(tmp_path)
    assert paths(listing) == ["a.jpg"]
    reason = "not a supported format"
    assert listing.left_out == {"b.heic": reason, "notes": reason, "sub/c.txt": reason}


@pytest.mark.parametrize(
    "layout",
    [
        ["train/cat/0.png", "cat/1.png"],  # one class
        ["train/0.png", "train/1.png"],
        ["test/cat/0.png", "test/dog/1.png"],
        ["cat/0.png", "dog/1.png"],
    ],
)
def test_without_two_classes_in_train_all_images_are_unlabeled(
    tmp_path: Path, layout: list[str]
) -> None:
    for path in layout:
        save_image(tmp_path / path)
    listing = listed(tmp_path)
    assert paths(listing) == sorted(layout)
    assert {(image.split, image.label) for image in listing.images} == {("", "")}
    assert listing.classes == ()


def test_a_folder_without_images_is_an_error_that_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match=r"POOL=.*: the folder contains no images$"):
        listed(tmp_path)
    (tmp_path / "a.heic").write_text("1")
    (tmp_path / "b.heic").write_text("1")
    with pytest.raises(
        PoolError, match=r"no images \(2 of 2 files left out: 2 \.heic \(not a supported format\)\)"
    ):
        listed(tmp_path)


# Labeled folders


def test_folders_in_train_and_test_are_classes(folder: Path) -> None:
    listing = listed(folder)
    assert listing.classes == ("cat", "dog")
    assert Counter((image.split, image.label) for image in listing.images) == {
        ("train", "cat"): 3,
        ("train", "dog"): 3,
        ("test", "cat"): 1,
        ("test", "dog"): 1,
    }


def test_loose_images_beside_classes_are_unlabeled(folder: Path) -> None:
    loose = ["0.png", "train/1.png", "other/cat/2.png"]
    for path in loose:
        save_image(folder / path)
    listing = listed(folder)
    assert listing.classes == ("cat", "dog")
    assert sorted(image.location for image in listing.images if not image.split) == sorted(loose)


def test_images_below_a_class_folder_belong_to_the_class(folder: Path) -> None:
    save_image(folder / "train/cat/spring/0.png")
    [image] = [i for i in listed(folder).images if i.location == "train/cat/spring/0.png"]
    assert (image.split, image.label) == ("train", "cat")


def test_test_images_without_a_known_class_are_left_out(folder: Path) -> None:
    save_image(folder / "test/zebra/0.png")
    save_image(folder / "test/1.png")
    listing = listed(folder)
    assert len(listing.images) == 8
    assert listing.left_out == {
        "test/zebra/0.png": "train/ contains no images of its class",
        "test/1.png": "a test image without a class: move it to test/<class>/",
    }


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (os.fsdecode(b"caf\xe9"), "is not UTF-8"),
        ("be\x07ll", "contains a control character"),
        ("two\nlines", "contains a control character"),
        ("c1\x85", "contains a control character"),
        ("no\uffffne", "contains a control character"),
    ],
)
def test_a_class_name_that_label_studio_cannot_hold_is_left_out(
    folder: Path, name: str, why: str
) -> None:
    save_image(folder / "train" / name / "0.png")
    listing = listed(folder)
    assert listing.classes == ("cat", "dog")
    assert listing.left_out == {
        f"train/{name}/0.png": f"the name of its class folder {why}: rename the folder"
    }


def test_class_names_in_any_language_are_kept(folder: Path) -> None:
    names = ("猫", "می‌خواهم", "café & co", 'a"b', "👩‍🌾", "it's")
    for name in names:
        save_image(folder / "train" / name / "0.png")
    assert set(listed(folder).classes) == {"cat", "dog", *names}


# Links, and what cannot be read


def test_an_image_whose_name_is_not_utf8_can_be_opened(folder: Path) -> None:
    path = os.fsdecode(b"train/cat/caf\xe9.png")
    save_image(folder / path)
    assert path in paths(listed(folder))
    with Folder(folder).open(path) as file:
        assert file.read() == (folder / path).read_bytes()


@pytest.mark.parametrize(
    ("path", "target", "why"),
    [
        ("train/loop", "loop", "Too many levels of symbolic links"),
        ("train/cat/loop.png", "loop.png", "Too many levels of symbolic links"),
        ("train/gone", "nowhere", "No such file"),
        ("test/dog/gone.jpg", "nowhere.jpg", "No such file"),
        ("train/up", "..", "a link to a folder that is already listed"),
        ("other", "train/cat", "a link to a folder that is already listed"),
    ],
)
def test_a_link_that_leads_nowhere_new_is_left_out(
    folder: Path, path: str, target: str, why: str
) -> None:
    (folder / path).symlink_to(target)
    listing = listed(folder)
    assert list(listing.left_out) == [path]
    assert why in listing.left_out[path]
    assert len(listing.images) == 8


def test_a_link_to_a_folder_elsewhere_is_followed(folder: Path) -> None:
    save_image(folder.parent / "elsewhere/0.png")
    (folder / "train/cow").symlink_to(folder.parent / "elsewhere")
    (folder.parent / "elsewhere/back").symlink_to(folder)
    assert "train/cow/0.png" in paths(listed(folder))
    assert listed(folder).classes == ("cat", "cow", "dog")


def test_an_image_name_that_is_not_a_file_is_left_out(folder: Path) -> None:
    os.mkfifo(folder / "train/cat/pipe.jpg")
    (folder / "train/dog/album.png").mkdir()
    save_image(folder / "train/dog/album.png/0.png")
    listing = listed(folder)
    assert listing.left_out == {"train/cat/pipe.jpg": "not a file"}
    assert "train/dog/album.png/0.png" in paths(listing)


def test_an_unreadable_folder_is_left_out(as_nobody: Path) -> None:
    folder = make_folder(as_nobody / "images", 3)
    save_image(folder / "train/secret/0.png")
    (folder / "train/secret").chmod(0)
    assert listed(folder).left_out == {"train/secret": "Permission denied"}
    (folder / "train/secret").chmod(0o700)


@pytest.mark.parametrize(("below", "named"), [("train", "its folder train"), ("", "the folder")])
def test_an_unreadable_pool_or_split_is_an_error(as_nobody: Path, below: str, named: str) -> None:
    folder = make_folder(as_nobody / "images", 3)
    (folder / below).chmod(0)
    with pytest.raises(PoolError, match=rf"images: {named} cannot be read \(Permission denied\)"):
        listed(folder)
    (folder / below).chmod(0o700)


def test_an_image_deleted_while_listing_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries_of = folder_module._entries

    def delete_found_image(at: Path) -> list[os.DirEntry[str]]:
        found = entries_of(at)
        if at == folder / "train/cat":
            (folder / "train/cat/0.png").unlink()
        return found

    monkeypatch.setattr(folder_module, "_entries", delete_found_image)
    assert listed(folder).left_out == {"train/cat/0.png": "No such file or directory"}


def test_listing_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.images.folder.REPORT_EVERY", 3)
    folder = make_folder(tmp_path, 3)
    calls: list[tuple[str, int, int]] = []
    Folder(folder).list(lambda *now: calls.append(now))
    assert calls == [("listing images", 3, 0), ("listing images", 6, 0)]
