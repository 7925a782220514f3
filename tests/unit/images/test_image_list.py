"""Test lists of images: paths below the list's folder, web servers, and buckets."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.base.errors import PoolError
from backend.images.digest import digest
from backend.images.image_hosts import ImageHosts
from backend.images.image_list import ImageList
from backend.images.listing import Listed, Listing
from tests.unit.images.buckets import fill_bucket, refuse_all, serve_s3
from tests.unit.images.image_folders import save_image
from tests.unit.images.image_server import ImageServer, serve_images


def source(folder: Path, *rows: str | dict[str, str], hosts: tuple[str, ...] = ()) -> ImageList:
    """A list of these images, in a folder."""
    path = folder / "list.jsonl"
    path.write_text(
        "\n".join(json.dumps({"image": row} if isinstance(row, str) else row) for row in rows)
    )
    return ImageList(path.resolve(), ImageHosts(hosts))


def listed(folder: Path, *rows: str | dict[str, str], hosts: tuple[str, ...] = ()) -> Listing:
    return source(folder, *rows, hosts=hosts).list(lambda *_: None)


def by_location(listing: Listing) -> dict[str, Listed]:
    return {image.location: image for image in listing.images}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three images, and one beside it."""
    for path in ("a.png", "sub/b.png", "sub/c.png"):
        save_image(tmp_path / "list" / path)
    save_image(tmp_path / "outside/d.png")
    return tmp_path / "list"


# Paths


def test_paths_below_the_list_are_listed_with_size_and_time(folder: Path) -> None:
    listing = listed(folder, "a.png", "sub/b.png")
    found = by_location(listing)
    assert set(found) == {"a.png", "sub/b.png"}
    image = found["sub/b.png"]
    status = (folder / "sub/b.png").stat()
    assert image.image_id == digest("sub/b.png")
    assert (image.size, image.modified) == (status.st_size, str(status.st_mtime_ns))
    assert (image.split, image.label, listing.classes) == ("", "", ())
    assert [i.image_id for i in listing.images] == sorted(i.image_id for i in listing.images)


def test_labels_and_splits_are_those_of_the_list(folder: Path) -> None:
    listing = listed(
        folder,
        {"image": "a.png", "label": "cat"},
        {"image": "sub/b.png", "label": "dog", "split": "validation"},
        {"image": "sub/c.png", "label": "cow", "split": "test"},
    )
    assert listing.classes == ("cat", "cow", "dog")
    assert {image.location: (image.split, image.label) for image in listing.images} == {
        "a.png": ("train", "cat"),
        "sub/b.png": ("validation", "dog"),
        "sub/c.png": ("test", "cow"),
    }


def test_every_spelling_of_a_path_is_one_image(folder: Path) -> None:
    (folder / "link").symlink_to("sub")
    spellings = ("sub/b.png", "./sub//b.png", "x/../sub/b.png", "link/b.png", f"{folder}/sub/b.png")
    listing = listed(folder, *spellings)
    assert set(by_location(listing)) == {"sub/b.png"}
    assert not listing.left_out


@pytest.mark.parametrize(
    "path", ["../outside/d.png", "sub/../../outside/d.png", "/etc/hostname", "..", "/", "link.png",
             "away/d.png", "sub/..", "../list-of-another/a.png"]
)  # fmt: skip
def test_a_path_that_leads_out_of_the_folder_is_left_out_and_never_opened(
    folder: Path, path: str
) -> None:
    (folder / "link.png").symlink_to("../outside/d.png")
    (folder / "away").symlink_to("../outside")
    save_image(folder.parent / "list-of-another/a.png")
    images = source(folder, "a.png", path)
    listing = images.list(lambda *_: None)
    assert set(by_location(listing)) == {"a.png"}
    assert listing.left_out == {path: "not a file below the list's folder"}
    with pytest.raises(OSError, match="not a file below the list's folder"):
        images.open(path)


def test_an_image_that_becomes_a_link_out_of_the_folder_is_not_opened(folder: Path) -> None:
    images = source(folder, "a.png")
    [image] = images.list(lambda *_: None).images
    with images.open(image.location) as file:
        assert file.read() == (folder / "a.png").read_bytes()
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to("../outside/d.png")
    with pytest.raises(OSError, match="not a file below"):
        images.open(image.location)


def test_a_link_within_the_folder_is_an_image(folder: Path) -> None:
    (folder / "link.png").symlink_to("sub/b.png")
    assert set(by_location(listed(folder, "link.png"))) == {"link.png"}


def test_missing_images_are_named_and_left_out(folder: Path) -> None:
    (folder / "loop.png").symlink_to("loop.png")
    rows = ("a.png", "x.png", "sub", "a.png/b.png", "nul\0.png", "\ud800.png", "loop.png")
    listing = listed(folder, *rows)
    assert set(by_location(listing)) == {"a.png"}
    assert listing.left_out == {
        "x.png": "No such file or directory",
        "sub": "not a file",
        "a.png/b.png": "Not a directory",
        "nul\0.png": "the address contains a control character",
        "\ud800.png": "the address is not UTF-8",
        "loop.png": "Too many levels of symbolic links",
    }


def test_a_list_of_which_nothing_can_be_used_is_an_error_that_says_why(folder: Path) -> None:
    with pytest.raises(
        PoolError,
        match=r"list\.jsonl: no image can be used: 2 of 2 files left out: 1 \(evil\.org is not in "
        r"IMAGE_HOSTS\): 'https://evil\.org/a'; 1 \(No such file or directory\): 'x\.png'$",
    ):
        listed(folder, "x.png", "https://evil.org/a?token=secret")


def test_an_image_with_an_unusable_label_is_left_out(folder: Path) -> None:
    listing = listed(folder, {"image": "a.png", "label": "be\x07ll"}, "sub/b.png")
    assert listing.left_out == {"a.png": "the label contains a control character"}
    assert listing.classes == ()


def test_images_that_are_listed_twice_with_different_labels_have_none(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        listing = listed(
            folder,
            {"image": "a.png", "label": "cat"},
            {"image": "./a.png", "label": "dog"},
            "sub/b.png",
            {"image": "sub/b.png", "label": "dog"},
            {"image": "sub/c.png", "label": "cat"},
            {"image": "sub/c.png", "label": "cat", "split": "train"},
        )
    assert {image.location: image.label for image in listing.images} == {
        "a.png": "",
        "sub/b.png": "dog",
        "sub/c.png": "cat",
    }
    assert caplog.messages == [
        f"pool {folder}/list.jsonl: 1 images are listed with different labels or splits, so they "
        "count as unlabeled: 'a.png'"
    ]


def test_listing_reports_progress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.images.image_list.REPORT_EVERY", 2)
    calls: list[tuple[str, int, int]] = []
    source(folder, "a.png", "sub/b.png", "sub/c.png").list(lambda *now: calls.append(now))
    assert calls == [("listing images", 2, 0)]


# URLs


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with serve_images() as served:
        served.files = {"/a.png": b"content of a"}
        yield served


def test_an_image_on_an_allowed_host_is_listed_and_fetched(
    folder: Path, server: ImageServer
) -> None:
    url = server.url("/a.png")
    images = source(folder, url, "a.png", hosts=(server.host,))
    listing = images.list(lambda *_: None)
    image = by_location(listing)[url]
    assert (image.image_id, image.size, image.modified) == (digest(url), -1, "")
    assert server.asked == []
    assert images.open(url).read() == b"content of a"
    assert images.url(url) == url
    assert images.url("a.png") is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://evil.org/a.png", "evil.org is not in IMAGE_HOSTS"),
        ("HTTPS://evil.org/a.png", "evil.org is not in IMAGE_HOSTS"),
        ("http://images.example.org/a.png", "use https instead of http"),
        ("file:///etc/hostname", "neither a path, nor an s3, gs or https address"),
        ("ftp://images.example.org/a", "neither a path, nor an s3, gs or https address"),
    ],
)
def test_other_addresses_are_left_out(folder: Path, url: str, why: str) -> None:
    images = source(folder, "a.png", url, hosts=("images.example.org",))
    listing = images.list(lambda *_: None)
    assert set(by_location(listing)) == {"a.png"}
    assert listing.left_out[url].startswith(why)
    with pytest.raises(OSError, match=why):
        images.open(url)


# Buckets


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with one image."""
    with serve_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fill_bucket("photos", {"x/a.png": b"123"})
        yield "s3://photos"


def test_images_in_a_bucket_are_listed_and_read(folder: Path, bucket: str) -> None:
    images = source(folder, {"image": f"{bucket}/x/a.png", "label": "cat"}, f"{bucket}/b.png")
    listing = images.list(lambda *_: None)
    found = by_location(listing)
    assert set(found) == {f"{bucket}/x/a.png", f"{bucket}/b.png"}
    assert found[f"{bucket}/x/a.png"].image_id == digest(f"{bucket}/x/a.png")
    assert listing.classes == ("cat",)
    assert images.open(f"{bucket}/x/a.png").read() == b"123"
    assert images.url(f"{bucket}/x/a.png") is None


def test_a_bucket_without_rights_is_an_error_that_removes_no_image(
    folder: Path, bucket: str
) -> None:
    with (
        refuse_all(os.environ["AWS_ENDPOINT_URL"]),
        pytest.raises(PoolError, match=r"'s3://photos/x/a.png': access to s3://photos was refused"),
    ):
        listed(folder, "a.png", f"{bucket}/x/a.png")


def test_a_bucket_with_a_password_in_its_address_is_an_error_that_hides_it(folder: Path) -> None:
    with pytest.raises(PoolError, match=r"'s3://…@photos/a.png': write s3://bucket/…, without a"):
        listed(folder, "a.png", "s3://me:secret@photos/a.png")
