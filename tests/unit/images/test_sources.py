"""Test that POOL finds its source, and that what cannot be one is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.errors import PoolError
from backend.images.bucket import Bucket
from backend.images.folder import Folder
from backend.images.image_list import ImageList
from backend.images.sources import Source, find_source
from tests.unit.images.image_folders import save_image


def found(name: str | Path) -> Source:
    return find_source(str(name), image_hosts=())


def test_a_folder_is_found_by_any_path_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos.csv").mkdir()
    (tmp_path / "link").symlink_to("photos.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (tmp_path / "photos.csv", "photos.csv", "./link/", "~/photos.csv"):
        source = found(name)
        assert isinstance(source, Folder)
        assert source.name == str(tmp_path / "photos.csv")


@pytest.mark.parametrize("name", ["list.csv", "list.JSONL", "list.parquet"])
def test_a_list_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("image\na.png\n")
    source = found(tmp_path / name)
    assert isinstance(source, ImageList)
    assert source.name == str(tmp_path / name)


@pytest.mark.parametrize("name", ["s3://photos/birds", "s3://photos/birds/", "s3://photos/birds//"])
def test_a_bucket_is_found(name: str) -> None:
    source = found(name)
    assert isinstance(source, Bucket)
    assert source.name == "s3://photos/birds/"


def test_a_list_may_name_images_on_the_hosts_that_are_given(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\nhttps://images.example.org/a.png\n")
    source = find_source(str(tmp_path / "list.csv"), image_hosts=["images.example.org"])
    assert len(source.list(lambda *_: None).images) == 1


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nowhere", "POOL=nowhere: no such folder or list; allowed are auto, cifar10, digits, a"),
        ("a.png", r"POOL=a\.png: not a list of images; .* a list \(\.csv, \.jsonl, \.parquet\)"),
        ("loop", "POOL=loop: .*loop"),
        ("~nobody-here/x", "POOL=~nobody-here/x: .*home"),
        ("nul\0", "POOL=nul\0: .*null byte"),
        ("https://me:secret@host/a", r"POOL=https://…: use s3:// or gs://; to use images at"),
    ],
)
def test_what_cannot_be_a_source_is_an_error_that_says_what_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: str
) -> None:
    save_image(tmp_path / "a.png")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PoolError, match=error) as caught:
        found(name)
    assert "secret" not in str(caught.value)
