"""Keep files in a folder or in a bucket, by the same calls."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from backend.base.errors import ModelFolderError
from backend.store.place import BucketPlace, LocalPlace, Place, find_place
from backend.store.row_store import RowStore
from tests.unit.images.buckets import KEYS, refuse_all


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return find_place(tmp_path / "store")
    return find_place(f"s3://{request.getfixturevalue('bucket')}/store/")


def test_an_address_of_a_bucket_is_one_and_any_other_a_folder(tmp_path: Path, bucket: str) -> None:
    assert isinstance(find_place(tmp_path), LocalPlace)
    assert isinstance(find_place("var/store"), LocalPlace)
    assert isinstance(find_place(f"s3://{bucket}/a"), BucketPlace)


def test_files_are_written_read_and_deleted(place: Place) -> None:
    assert place.names() == []
    place.write("a.bin", b"123")
    place.write("b.bin", b"")
    place.below("c").below("d").write("e.bin", b"5")
    assert place.names() == ["a.bin", "b.bin", "c"]
    place.write("a.bin", b"4")
    assert place.read("a.bin") == b"4"
    assert place.below("c/d").read("e.bin") == b"5"
    with place.open("a.bin") as file:
        assert file.read() == b"4"
    place.delete("c")
    place.delete("a.bin")
    place.delete("never-there")
    assert place.names() == ["b.bin"]


def test_a_missing_file_is_an_error_of_its_own(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.read("a.bin")
    with pytest.raises(FileNotFoundError):
        place.open("a.bin")


def test_another_process_finds_the_same_files(place: Place) -> None:
    place.write("a.bin", b"123")
    sent = pickle.loads(pickle.dumps(place))
    assert (sent.address, sent.read("a.bin")) == (place.address, b"123")


def test_rows_are_kept_in_either(place: Place) -> None:
    store = RowStore(place, np.float32, 2)
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = store.complete(["a", "b", "c"], lambda missing: store.write_all(missing, rows))
    assert np.array_equal(found[:], rows)
    stored = RowStore(place, np.float32, 2).open()
    assert stored is not None
    assert np.array_equal(stored[stored.find(["c", "a"])], rows[[2, 0]])


def test_a_folder_that_cannot_be_used_says_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelFolderError, match="permissions and the free space"):
        LocalPlace(tmp_path / "file/store").write("a.bin", b"1")


def test_without_rights_the_error_names_the_setting_and_holds_no_secret(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show")
    place = find_place(f"s3://{bucket}/store")
    with refuse_all(os.environ["AWS_ENDPOINT_URL"]):
        for use in (
            lambda: place.write("a.bin", b"1"),
            lambda: place.read("a.bin"),
            place.names,
            lambda: place.delete("a.bin"),
        ):
            with pytest.raises(
                ModelFolderError, match=f"STORE=s3://{bucket}/store cannot be used: access to"
            ) as caught:
                use()
            assert "do-not-show" not in str(caught.value)
        with pytest.raises(ModelFolderError, match="lets you write to it"):
            place.write("a.bin", b"1")


def test_a_missing_bucket_or_missing_credentials_are_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelFolderError, match="the bucket s3://nowhere does not exist"):
        find_place("s3://nowhere/x").write("a.bin", b"1")
    for name in KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(ModelFolderError, match="no credentials for"):
        find_place(f"s3://{bucket}/x").names()
    with pytest.raises(ModelFolderError, match="without a user name or password"):
        find_place("s3://me:secret@bucket/x")
