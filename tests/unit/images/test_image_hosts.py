"""Test that images are fetched from allowed hosts only, on a real web server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from backend.base.errors import ImageError
from backend.images.image_hosts import ImageHosts, Limits
from tests.unit.images.image_server import ImageServer, serve_images


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with serve_images() as served:
        served.files = {"/a.png": b"content of a", "/b.png?x=1": b"content of b"}
        yield served


@pytest.fixture
def hosts(server: ImageServer) -> ImageHosts:
    return ImageHosts(
        [server.host, "images.example.org", "example.net:8443", "images.example.com:443", "[::1]"]
    )


def test_an_image_on_an_allowed_host_is_fetched(server: ImageServer, hosts: ImageHosts) -> None:
    assert hosts.open(server.url("/a.png")).read() == b"content of a"
    assert hosts.open(server.url("/b.png?x=1")).read() == b"content of b"


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://images.example.org/a.png", ""),
        ("https://IMAGES.example.org:443/a.png", ""),
        ("https://example.net:8443/a.png", ""),
        ("https://images.example.com/a.png", ""),
        ("http://[::1]:81/a.png", "[::1]:81 is not in IMAGE_HOSTS"),
        ("https://images.example.org:8443/a.png", "images.example.org:8443 is not in IMAGE_HOSTS"),
        ("https://example.net/a.png", "example.net is not in IMAGE_HOSTS"),
        ("https://evil.org/images.example.org", "evil.org is not in IMAGE_HOSTS"),
        ("https://a.images.example.org/", "a.images.example.org is not in IMAGE_HOSTS"),
        ("http://images.example.org/a.png", "use https instead of http"),
        ("https://me:secret@images.example.org/", "the address contains a user name or password"),
        ("https://evil.org\\@images.example.org/", "a malformed address"),
        ("https://images.example.org\t.evil.org/", "a malformed address"),
        ("https://images.example.org:port/", "a malformed address"),
        ("https:///a.png", "a malformed address"),
    ],
)
def test_only_the_named_hosts_are_allowed(hosts: ImageHosts, url: str, fault: str) -> None:
    assert hosts.fault(url) == fault
    if fault:
        with pytest.raises(OSError, match=re.escape(fault)):
            hosts.open(url)


def test_a_redirect_to_an_allowed_host_is_followed(server: ImageServer, hosts: ImageHosts) -> None:
    server.redirects = {"/old.png": "/older.png", "/older.png": server.url("/a.png")}
    assert hosts.open(server.url("/old.png")).read() == b"content of a"


def test_a_redirect_to_another_host_is_not_followed(server: ImageServer) -> None:
    with serve_images() as other:
        other.files = {"/a.png": b"content of another a"}
        server.redirects = {"/a.png": other.url("/a.png")}
        with pytest.raises(OSError, match=rf"{other.host} is not in IMAGE_HOSTS"):
            ImageHosts([server.host]).open(server.url("/a.png"))
        assert other.asked == []


def test_a_redirect_in_a_circle_ends(server: ImageServer, hosts: ImageHosts) -> None:
    server.redirects = {"/a.png": "/a.png"}
    with pytest.raises(OSError, match="more than 3 redirects"):
        hosts.open(server.url("/a.png"))
    assert len(server.asked) == 4


@pytest.mark.parametrize("target", ["http://[bad", "http://[::1", "https://a:port/"])
def test_a_redirect_to_a_malformed_address_is_an_error_of_this_image_only(
    server: ImageServer, hosts: ImageHosts, target: str
) -> None:
    server.redirects = {"/a.png": target}
    with pytest.raises(OSError, match=r"malformed address|cannot be fetched|not in IMAGE_HOSTS"):
        hosts.open(server.url("/a.png"))


def test_a_missing_image_is_an_error_without_the_query_of_its_address(
    server: ImageServer, hosts: ImageHosts
) -> None:
    with pytest.raises(OSError, match=r"answered 404 for 'http://.*/c.png'$"):
        hosts.open(server.url("/c.png?signature=secret"))


def test_a_server_that_does_not_answer_is_an_error() -> None:
    with serve_images() as gone:
        hosts = ImageHosts([gone.host])
    with pytest.raises(OSError, match=r"cannot be fetched \(ConnectError\)"):
        hosts.open(gone.url("/a.png"))


def test_a_large_file_is_not_read_to_its_end(server: ImageServer, hosts: ImageHosts) -> None:
    with pytest.raises(ImageError, match="more than 11 bytes"):
        hosts.open(server.url("/a.png"), Limits(11, 60.0))
