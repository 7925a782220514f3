"""Test buckets on a server of the real S3 protocol, through the real client."""

from __future__ import annotations

import os
from collections import Counter

import fsspec
import pytest

from backend.base.errors import PoolError
from backend.images.bucket import Bucket, BucketFiles
from backend.images.digest import digest
from backend.images.listing import Listing
from tests.unit.images.buckets import KEYS, fill_bucket, refuse_all


def listed(url: str) -> Listing:
    return Bucket(url).list(lambda *_: None)


def test_images_at_any_depth_are_listed_with_size_and_etag(bucket: str) -> None:
    files = ("a/1.jpg", "a/b/c/2 #?é.PNG", "a/.hidden.jpg", "a/.x/3.jpg", "a/4.txt", "b/5.jpg")
    fill_bucket(bucket, dict.fromkeys(files, b"123") | {"a/folder/": b""})

    listing = listed(f"s3://{bucket}/a")

    assert Bucket(f"s3://{bucket}/a").name == f"s3://{bucket}/a/"
    found = {image.location: image for image in listing.images}
    assert set(found) == {f"s3://{bucket}/a/1.jpg", f"s3://{bucket}/a/b/c/2 #?é.PNG"}
    assert listing.left_out == {f"s3://{bucket}/a/4.txt": "not a supported format"}
    first = found[f"s3://{bucket}/a/1.jpg"]
    assert first.image_id == digest(f"s3://{bucket}/a/1.jpg")
    assert (first.size, first.modified) == (3, "202cb962ac59075b964b07152d234b70")  # md5 of 123
    assert (first.split, first.label, listing.classes) == ("", "", ())


def test_a_replaced_file_has_another_etag(bucket: str) -> None:
    fill_bucket(bucket, {"1.jpg": b"123", "2.jpg": b"123"})
    source = Bucket(f"s3://{bucket}")
    before = {image.location: image.modified for image in source.list(lambda *_: None).images}
    fill_bucket(bucket, {"1.jpg": b"124", "3.jpg": b"123"})
    after = {image.location: image.modified for image in source.list(lambda *_: None).images}
    changed = {url for url, etag in after.items() if before.get(url) != etag}
    assert changed == {f"s3://{bucket}/1.jpg", f"s3://{bucket}/3.jpg"}


def test_class_folders_in_a_bucket_are_labels(bucket: str) -> None:
    fill_bucket(bucket, {f"x/{p}/1.jpg": b"1" for p in ("train/cat", "train/dog", "test/cat", "y")})
    listing = listed(f"s3://{bucket}/x/")
    assert listing.classes == ("cat", "dog")
    assert Counter((image.split, image.label) for image in listing.images) == {
        ("train", "cat"): 1,
        ("train", "dog"): 1,
        ("test", "cat"): 1,
        ("", ""): 1,
    }


def test_more_files_than_one_page_holds_are_listed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "4")
    fill_bucket(bucket, {f"{number}.jpg": b"1" for number in range(9)})
    assert len(listed(f"s3://{bucket}/").images) == 9


def test_an_image_is_read_and_a_missing_one_is_an_error(bucket: str) -> None:
    fill_bucket(bucket, {"a b#?.jpg": b"123"})
    source = Bucket(f"s3://{bucket}/")
    assert source.open(f"s3://{bucket}/a b#?.jpg").read() == b"123"
    assert source.url(f"s3://{bucket}/a b#?.jpg") is None
    with pytest.raises(OSError, match="no such file in the bucket"):
        source.open(f"s3://{bucket}/b.jpg")


def test_a_bucket_without_images_is_an_error_that_says_what_it_holds(bucket: str) -> None:
    with pytest.raises(PoolError, match=rf"POOL=s3://{bucket}/: no images below this address$"):
        listed(f"s3://{bucket}/")
    fill_bucket(bucket, {"x/1.heic": b"1"})
    with pytest.raises(PoolError, match=r"1 of 1 files left out: 1 \.heic \(not a supported"):
        listed(f"s3://{bucket}/x/")
    with pytest.raises(PoolError, match=r"/y/: no images below this address$"):
        listed(f"s3://{bucket}/y/")


@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_is_an_error() -> None:
    with pytest.raises(PoolError, match="the bucket s3://nowhere does not exist: check its name"):
        listed("s3://nowhere/x/")


def test_without_credentials_the_error_says_which_to_set(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(PoolError, match=r"no credentials for .*: set AWS_ACCESS_KEY_ID and"):
        listed(f"s3://{bucket}/")
    with pytest.raises(OSError, match="no credentials for"):
        Bucket(f"s3://{bucket}/").open(f"s3://{bucket}/a.jpg")
    # What FSSPEC_S3_ANON=true sets when fsspec is imported
    fill = {"a.jpg": b"1"}
    with monkeypatch.context() as context:
        for name in KEYS:
            context.setenv(name, "testing")
        fill_bucket(bucket, fill)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    assert len(listed(f"s3://{bucket}/").images) == 1


def test_without_rights_the_error_says_so_and_holds_no_secret(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_bucket(bucket, {"a.jpg": b"1"})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-show")
    source = Bucket(f"s3://{bucket}/")
    with refuse_all(os.environ["AWS_ENDPOINT_URL"]):
        with pytest.raises(PoolError, match=rf"access to s3://{bucket} was refused") as caught:
            source.list(lambda *_: None)
        assert "do-not-show" not in str(caught.value)
        with pytest.raises(OSError, match="was refused"):
            source.open(f"s3://{bucket}/a.jpg")
        with pytest.raises(OSError, match="was refused"):
            BucketFiles(f"s3://{bucket}").check(f"s3://{bucket}/a.jpg")


def test_a_server_that_cannot_be_reached_is_an_error(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PoolError, match=r"cannot be reached \(EndpointConnectionError\): check"):
        listed(f"s3://{bucket}/")


@pytest.mark.parametrize("url", ["s3://", "s3:///photos", "s3://me:secret@photos/x"])
def test_an_address_without_a_bucket_or_with_a_password_is_an_error(url: str) -> None:
    with pytest.raises(PoolError, match=r"write s3://bucket/…, without a user") as caught:
        Bucket(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("url", "package"), [("s3://a/", "s3fs"), ("gs://a/", "gcsfs")])
def test_a_missing_package_is_an_error_that_says_what_to_install(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError(package)

    monkeypatch.setattr(fsspec, "filesystem", fail)
    with pytest.raises(PoolError, match=f"the package {package} is missing: pip install {package}"):
        Bucket(url)
