"""Tests of the bucket of made-up photographs."""

from __future__ import annotations

import io
from collections.abc import Iterator

import fsspec
import pytest
from PIL import Image

from backend.images.sources import find_source
from scripts.research.generated_bucket import bucket_url, register


@pytest.fixture(autouse=True)
def _generated() -> Iterator[None]:
    real = fsspec.get_filesystem_class("s3")
    register()
    yield
    fsspec.register_implementation("s3", real, clobber=True)


def test_a_bucket_lists_as_many_photographs_as_its_address_says() -> None:
    listing = find_source(bucket_url(1001, 32, 24), image_hosts=()).list(lambda *_: None)

    assert len(listing.images) == 1001
    assert not listing.left_out
    assert len({image.modified for image in listing.images}) == 1001


def test_all_photographs_differ_and_have_the_listed_size_in_bytes() -> None:
    source = find_source(bucket_url(9, 32, 24), image_hosts=())
    images = source.list(lambda *_: None).images

    files = [source.open(image.location).read() for image in images]

    assert len(set(files)) == 9
    assert [len(file) for file in files] == [image.size for image in images]


def test_a_photograph_has_the_width_and_height_of_the_address() -> None:
    source = find_source(bucket_url(1, 320, 240), image_hosts=())
    [listed] = source.list(lambda *_: None).images

    with Image.open(io.BytesIO(source.open(listed.location).read())) as image:
        image.load()
        assert (image.format, image.size) == ("JPEG", (320, 240))


def test_a_bucket_contains_no_photograph_beyond_its_count() -> None:
    source = find_source(bucket_url(2, 32, 24), image_hosts=())

    with pytest.raises(OSError, match="no such file"):
        source.open(f"{bucket_url(2, 32, 24)}0000/00000002.jpg")
