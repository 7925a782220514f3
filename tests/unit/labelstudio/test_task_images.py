"""Load images of tasks from data URIs and from an HTTP server that stands in for Label Studio."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.base.errors import ImageError
from backend.base.settings import load_settings
from backend.images.decode import open_image
from backend.images.framing import FramingName, View, frame
from backend.images.image_hosts import Limits
from backend.labelstudio.task_images import MAX_BYTES, TaskImages
from tests.patience import PATIENCE_S

TOKEN = "0123456789abcdef0123456789abcdef01234567"
RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def red_and_blue() -> Image.Image:
    """Two pixels, red left of blue."""
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    return image


def load(
    value: str,
    url: str = "http://127.0.0.1:1",
    give_up_after_s: float = 30.0,
    view: View = View(2),  # noqa: B008
    **changes: Any,
) -> Any:
    return task_images(url, give_up_after_s, **changes).load(value, view)


def task_images(url: str, give_up_after_s: float = 30.0, **changes: Any) -> TaskImages:
    settings = load_settings(
        _env_file=None, label_studio_url=url, label_studio_api_key=TOKEN,
        max_image_pixels=50_000_000, **changes,
    )  # fmt: skip
    return TaskImages(settings, Limits(MAX_BYTES, give_up_after_s))


Response = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Stand in for Label Studio: respond by path and record the requests."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.responses: dict[str, Response] = {}
        self.requests: list[tuple[str, str | None]] = []  # path and Authorization

    def serve(self, path: str, content: bytes) -> str:
        self.responses[path] = lambda handler: send(handler, content)
        return self.url + path


def send(handler: BaseHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append((self.path, self.headers["Authorization"]))
            try:
                server.responses[self.path.partition("?")[0]](self)
            except KeyError:
                self.send_error(404)
            except OSError:
                pass  # the client has hung up

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        server = Server(httpd.server_port)
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture
def label_studio() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    with serving() as server:
        yield server


# Data URIs


def test_a_data_uri_is_decoded_to_its_pixels() -> None:
    pixels = load(data_uri(encoded(red_and_blue())))
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[list(RED), list(BLUE)]] * 2  # mirrored below


def test_an_image_is_turned_upright_by_its_exif() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    pixels = load(data_uri(encoded(red_and_blue(), exif=exif)))
    assert pixels.tolist() == [[list(RED)] * 2, [list(BLUE)] * 2]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_pixel_format_is_converted_to_rgb(mode: str) -> None:
    image = Image.new(mode, (4, 3))
    pixels = load(data_uri(encoded(image, "TIFF"), "image/tiff"))
    assert pixels.shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("data:", "does not begin"),
        ("data:text/html;base64,aGk=", "does not begin"),
        ("data:image/png,raw", "does not begin"),
        ("data:image/png;base64,***", "not valid base64"),
        ("data:image/png;base64,", "damaged"),
        (data_uri(b"GIF89a of nothing"), "damaged"),
        (data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "damaged"),
        (data_uri(encoded(Image.new("RGB", (64, 64)), "JPEG")[:-300]), "damaged"),
        (data_uri(encoded(Image.effect_noise((64, 64), 50))[:1000]), "damaged"),
    ],
)
def test_a_broken_data_uri_is_an_image_error(value: str, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        load(value)


def test_a_data_uri_of_more_than_20_mb_is_refused() -> None:
    with pytest.raises(ImageError, match="more than 20,971,520 bytes"):
        load(data_uri(bytes(MAX_BYTES + 1)))


@pytest.mark.parametrize(
    "side", [7100, 9500, 14000]
)  # Pillow warns from 9,459 and raises at 13,378
def test_an_image_of_more_than_50_megapixels_is_refused_undecoded(side: int) -> None:
    bomb = encoded(Image.new("1", (side, side)))
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match=r"50,000,000.*MAX_IMAGE_PIXELS"):
        load(data_uri(bomb))


@pytest.mark.parametrize("framing", ["whole", "middle"])
def test_a_tasks_image_is_framed_as_the_pools(framing: FramingName) -> None:
    picture = Image.effect_noise((300, 100), 100)
    content, view = encoded(picture), View(64, framing)
    with open_image(io.BytesIO(content), 1_000_000) as image:
        expected = frame(image, framing, (view.side_px, view.side_px))
    assert np.array_equal(load(data_uri(content), view=view), expected)


# Label Studio


@pytest.mark.parametrize("is_relative", [True, False])
def test_an_image_in_label_studio_is_fetched_with_the_token(
    label_studio: Server, is_relative: bool
) -> None:
    url = label_studio.serve("/data/upload/1/a.png", encoded(red_and_blue()))
    value = url.removeprefix(label_studio.url) if is_relative else url
    assert load(f"{value}?d=1", label_studio.url).shape == (2, 2, 3)
    assert label_studio.requests == [("/data/upload/1/a.png?d=1", f"Token {TOKEN}")]


def test_another_host_is_never_contacted(label_studio: Server, elsewhere: Server) -> None:
    url = elsewhere.serve("/data/upload/1/a.png", encoded(red_and_blue()))
    with pytest.raises(ImageError, match="requests to other servers are not allowed"):
        load(url, label_studio.url)
    assert elsewhere.requests == []


def test_a_redirect_is_not_followed(label_studio: Server, elsewhere: Server) -> None:
    target = elsewhere.serve("/data/upload/1/a.png", encoded(red_and_blue()))

    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    label_studio.responses["/data/upload/1/a.png"] = redirect
    with pytest.raises(ImageError, match="only images in cloud storage may be redirected"):
        load("/data/upload/1/a.png", label_studio.url)
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        ("/data/upload/7/1f2e3d4c-cat.png", None),
        ("/data/upload/7/1f2e3d4c-two words.png".replace(" ", "%20"), None),
        ("/data/upload/7/1f2e3d4c-%C3%A9t%C3%A9.png", None),
        ("/data/upload/7/1f2e3d4c-été.png", "/data/upload/7/1f2e3d4c-%C3%A9t%C3%A9.png"),
        ("/data/upload/7/..cat..png", None),
        ("/data/local-files/?d=birds%2Fred/0001.png", None),
        ("/tasks/7/resolve/?fileuri=czM6Ly9iL2EucG5n", None),
        ("/tasks/123456/presign/?fileuri=czM6Ly9iL2EucG5n==", None),
    ],
)
@pytest.mark.parametrize("is_relative", [True, False])
def test_every_kind_of_label_studio_image_address_is_fetched(
    label_studio: Server, value: str, asked: str | None, is_relative: bool
) -> None:
    asked = asked or value
    label_studio.serve(asked.partition("?")[0], encoded(red_and_blue()))
    load(value if is_relative else label_studio.url + value, label_studio.url)
    assert label_studio.requests == [(asked, f"Token {TOKEN}")]


def test_label_studio_may_be_served_below_a_path(label_studio: Server) -> None:
    url = label_studio.serve("/label/data/upload/1/a.png", encoded(red_and_blue()))
    load(url, f"{label_studio.url}/label")
    load("/label/data/upload/1/a.png", f"{label_studio.url}/label")
    with pytest.raises(ImageError, match="does not serve images at this address"):
        load("/label/logout", f"{label_studio.url}/label")
    with pytest.raises(ImageError, match="does not serve images at this address"):
        load("/labeldata/upload/1/a.png", f"{label_studio.url}/label")
    assert len(label_studio.requests) == 2


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/logout",
        "/api/users/",
        "/api/current-user/token",
        "/projects/1/resolve/?fileuri=eA==",
        "/data/",
        "/data/a.png",
        "/data/avatars/1.png",
        "/data/upload/",
        "/data/upload",
        "/data/uploads/1/a.png",
        "/data/local-files/../../logout",
        "/data/local-files/x?d=a.png",
        "/x/data/local-files/?d=a.png",
        "/data/upload/../../logout",
        "/data/upload/..",
        "/data/upload/./1/a.png",
        "/data/upload/1/../../../api/users/",
        "/data/upload/%2e%2e/%2e%2e/logout",
        "/data/upload/%2E./.%2e/logout",
        "/data/upload/%252e%252e/%252e%252e/logout",
        "/data/upload/..%2f..%2flogout",
        "/data/upload/1%2f..%2f..%2f..%2flogout",
        "/data/upload/1%2Fa.png",
        "/data/upload/..%5c..%5clogout",
        "/data/upload/..;/..;/logout",
        "/data/upload/1/a.png;x=/../../logout",
        "/data/upload//..//../logout",
        "/data/upload//1/a.png",
        "//data/upload/1/a.png",
        "/data//upload/1/a.png",
        "/%64ata%2fupload/1/a.png",
        "/data/upload/1/a.png/",
        "/data/upload/1/a.png%00.png",
        "/data/upload/1/a.png%0d%0aX-Header:%201",
        "/data/upload/1/%ff%fe.png",
        "/data/upload/1/a.png#/../../logout",
        "/data/upload/1/a.png%23",
        "/data/upload/1/a.png%3f",
        "/data/upload/1/a\ud800.png",
        "/tasks/7/",
        "/tasks/7/resolve",
        "/tasks/-7/resolve/",
        "/tasks/7;8/resolve/",
        "/tasks/\u0667/resolve/",
        "/tasks/7/resolve/../../../logout",
        "/tasks/7/delete/",
    ],
)
@pytest.mark.parametrize("is_relative", [True, False])
def test_the_token_is_sent_only_to_label_studios_image_addresses(
    label_studio: Server, path: str, is_relative: bool
) -> None:
    with pytest.raises(ImageError, match=r"does not serve images|other servers|control characters"):
        load(path if is_relative else label_studio.url + path, label_studio.url)
    assert label_studio.requests == []


@pytest.mark.parametrize(
    "value",
    [
        "/data/upload/1/" + 100_000 * "a",
        "/data/upload/1/a.png?" + 50_000 * "a",
        "http://" + 100_000 * "a" + ".example.com/a.png",
        100_000 * "\u202e",
        "data:" + 100_000 * "a",
    ],
)
def test_an_address_of_100_kb_is_refused_in_a_short_message(
    label_studio: Server, value: str
) -> None:
    with pytest.raises(ImageError) as caught:
        load(value, label_studio.url)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a.png",
        "/etc/passwd",
        "/database/a.png",
        "file:///etc/passwd",
        "ftp://{host}/data/upload/1/a.png",
        "//{host}/data/upload/1/a.png",
        "///{host}/data/upload/1/a.png",
        "/\\{host}/data/upload/1/a.png",
        "http:\\\\{host}/data/upload/1/a.png",
        "http:/{host}/data/upload/1/a.png",
        "http://user@{host}/data/upload/1/a.png",
        "http://{host}@example.com/data/upload/1/a.png",
        "http://{host}.example.com/data/upload/1/a.png",
        "http://example.com#{host}/data/upload/1/a.png",
        "https://{host}/data/upload/1/a.png",
        "http://localhost:1/data/upload/1/a.png",
        "http://[::1/data/upload/1/a.png",
        "http://127.0.0.1:99999/data/upload/1/a.png",
        " http://{host}/data/upload/1/a.png",
        "http://{host}/data/upload/1/a.png\r\nX-Header: 1",
        "/data/upload/1/a.png\t",
    ],
)
def test_an_ambiguous_address_is_refused(label_studio: Server, value: str) -> None:
    label_studio.serve("/data/upload/1/a.png", encoded(red_and_blue()))
    host = label_studio.url.removeprefix("http://")
    with pytest.raises(ImageError):
        load(value.format(host=host) if "{host}" in value else value, label_studio.url)
    assert label_studio.requests == []


def test_a_missing_image_is_an_image_error(label_studio: Server) -> None:
    with pytest.raises(ImageError, match="answered 404"):
        load("/data/upload/1/gone.png", label_studio.url)


def test_a_download_of_more_than_20_mb_is_aborted(label_studio: Server) -> None:
    url = label_studio.serve("/data/upload/1/big.png", bytes(2 * MAX_BYTES))
    with pytest.raises(ImageError, match=re.escape(f"'{url}' has more than 20,971,520 bytes")):
        load(url, label_studio.url)


def test_an_image_that_arrives_too_slowly_is_given_up(label_studio: Server) -> None:
    n_bytes, n_sent = int(PATIENCE_S / 0.05), 0

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        nonlocal n_sent
        for _ in range(n_bytes):
            n_sent += 1
            handler.wfile.write(b"1\r\nx\r\n")
            time.sleep(0.05)

    label_studio.responses["/data/upload/1/slow.png"] = drip
    with pytest.raises(ImageError, match="took more than"):
        load("/data/upload/1/slow.png", label_studio.url, give_up_after_s=0.2)
    assert n_sent < n_bytes


def test_a_response_that_breaks_off_is_an_image_error(label_studio: Server) -> None:
    content = encoded(red_and_blue())
    label_studio.responses["/data/upload/1/cut.png"] = lambda h: send(
        h, content[:20], length=len(content)
    )
    with pytest.raises(ImageError, match="cannot be fetched"):
        load("/data/upload/1/cut.png", label_studio.url)


def test_a_file_that_is_not_an_image_is_an_image_error(label_studio: Server) -> None:
    url = label_studio.serve("/data/upload/1/page.html", b"<html>please log in</html>")
    with pytest.raises(ImageError, match="damaged or has an unknown format"):
        load(url, label_studio.url)


def test_a_server_that_is_down_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="cannot be fetched"):
        load("/data/upload/1/a.png", "http://127.0.0.1:1")


# Cloud storage and other hosts

CLOUD = "/tasks/7/resolve/?fileuri=czM6Ly9iL2EucG5n"


def redirect(server: Server, path: str, target: str) -> None:
    """Let a server redirect as Label Studio does to a presigned address."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(303)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.responses[path] = respond


def host_of(server: Server) -> str:
    return server.url.removeprefix("http://")


@pytest.mark.parametrize("name", ["resolve", "presign"])
def test_an_image_in_cloud_storage_is_fetched_by_one_redirect_without_the_token(
    label_studio: Server, elsewhere: Server, name: str
) -> None:
    target = elsewhere.serve("/bucket/a.png", encoded(red_and_blue())) + "?X-Amz-Signature=secret"
    redirect(label_studio, f"/tasks/7/{name}/", target)
    address = CLOUD.replace("resolve", name)
    assert load(address, label_studio.url, image_hosts=host_of(elsewhere)).shape == (2, 2, 3)
    assert label_studio.requests == [(address, f"Token {TOKEN}")]
    assert elsewhere.requests == [("/bucket/a.png?X-Amz-Signature=secret", None)]


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused_without_its_signature(
    label_studio: Server, elsewhere: Server
) -> None:
    redirect(label_studio, "/tasks/7/resolve/", f"{elsewhere.url}/bucket/a.png?signature=secret")
    with pytest.raises(ImageError, match=f"{host_of(elsewhere)} is not in IMAGE_HOSTS") as caught:
        load(CLOUD, label_studio.url, image_hosts="images.example.org")
    assert "secret" not in str(caught.value)
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "/api/current-user/token",
        "s3://b/a.png",
        "http://10.0.0.1/a.png",
        "//x",
    ],
)
def test_cloud_storage_is_never_a_file_nor_a_private_address_nor_label_studio_itself(
    label_studio: Server, target: str
) -> None:
    redirect(label_studio, "/tasks/7/resolve/", target)
    with pytest.raises(ImageError, match="redirects to cloud storage"):
        load(CLOUD, label_studio.url, image_hosts="images.example.org")
    assert label_studio.requests == [(CLOUD, f"Token {TOKEN}")]


def test_no_cookie_of_label_studio_reaches_another_server(
    label_studio: Server, elsewhere: Server
) -> None:
    """Cookies ignore ports, so a server on the same host would get Label Studio's session."""
    cookies: list[str | None] = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(303)
        handler.send_header("Set-Cookie", "sessionid=secret; Path=/")
        handler.send_header("Location", f"{elsewhere.url}/a.png")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def record_cookie(handler: BaseHTTPRequestHandler) -> None:
        cookies.append(handler.headers["Cookie"])
        send(handler, encoded(red_and_blue()))

    label_studio.responses["/tasks/7/resolve/"] = respond
    elsewhere.responses["/a.png"] = record_cookie
    load(CLOUD, label_studio.url, image_hosts=host_of(elsewhere))
    load(CLOUD, label_studio.url, image_hosts=host_of(elsewhere))
    assert cookies == [None, None]


def test_a_second_redirect_is_refused(label_studio: Server, elsewhere: Server) -> None:
    redirect(label_studio, "/tasks/7/resolve/", f"{elsewhere.url}/first")
    redirect(elsewhere, "/first", f"{elsewhere.url}/second")
    with pytest.raises(ImageError, match="more than 0 redirects"):
        load(CLOUD, label_studio.url, image_hosts=host_of(elsewhere))
    assert [path for path, _ in elsewhere.requests] == ["/first"]


@pytest.mark.parametrize("path", ["/data/upload/1/a.png", "/data/local-files/"])
def test_only_cloud_storage_may_redirect(
    label_studio: Server, elsewhere: Server, path: str
) -> None:
    redirect(label_studio, path, f"{elsewhere.url}/a.png")
    with pytest.raises(ImageError, match="only images in cloud storage may be redirected"):
        load(path, label_studio.url, image_hosts=host_of(elsewhere))
    assert elsewhere.requests == []


def test_an_image_on_an_allowed_host_is_fetched_without_the_token(
    label_studio: Server, elsewhere: Server
) -> None:
    url = elsewhere.serve("/a.png", encoded(red_and_blue()))
    assert load(url, label_studio.url, image_hosts=host_of(elsewhere)).shape == (2, 2, 3)
    assert elsewhere.requests == [("/a.png", None)]
    assert label_studio.requests == []


def test_naming_label_studio_in_image_hosts_does_not_open_its_other_pages(
    label_studio: Server,
) -> None:
    with pytest.raises(ImageError, match="does not serve images at this address"):
        load(f"{label_studio.url}/logout", label_studio.url, image_hosts=host_of(label_studio))
    assert label_studio.requests == []


@pytest.mark.parametrize("path", ["", "/label"])
def test_an_address_that_browsers_use_is_requested_from_label_studio_itself(
    label_studio: Server, path: str
) -> None:
    label_studio.serve("/data/upload/1/a.png", encoded(red_and_blue()))
    host = f"https://label.example.org{path}"
    for address in (f"{host}/data/upload/1/a.png", f"{path}/data/upload/1/a.png"):
        load(address, label_studio.url, label_studio_host=host)
    with pytest.raises(ImageError, match="does not serve images at this address"):
        load(f"{host}/logout", label_studio.url, label_studio_host=host)
    assert label_studio.requests == 2 * [("/data/upload/1/a.png", f"Token {TOKEN}")]


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("/data/upload/1/a.png", ""),
        ("data:image/png;base64,AAAA", ""),
        ("https://images.example.org/a.png", ""),
        ("http://10.1.2.3:8080/a.png", "requests to other servers are not allowed: 10.1.2.3:8080 "
         "is not in IMAGE_HOSTS"),
        ("https://evil.org/a.png?signature=secret", "requests to other servers are not allowed: "
         "evil.org is not in IMAGE_HOSTS"),
        ("s3://bucket/a.png", "the image is neither a data: URI, nor in Label Studio, nor at an "
         "https address (s3:…): connect the storage that contains it to the project"),
        ("file:///etc/passwd", "the image is neither a data: URI, nor in Label Studio, nor at an "
         "https address (file:…): connect the storage that contains it to the project"),
        ("/api/users/", "Label Studio does not serve images at this address; use /data/upload/…, "
         "/data/local-files/?d=… or /tasks/<id>/resolve/?fileuri=…"),
    ],
)  # fmt: skip
def test_the_reason_why_an_address_is_refused_names_its_host_and_nothing_secret(
    label_studio: Server, address: str, fault: str
) -> None:
    images = task_images(label_studio.url, image_hosts="images.example.org")
    assert images.fault(address) == fault
    assert label_studio.requests == []


def test_an_image_that_may_come_back_is_told_from_one_that_is_unusable(
    label_studio: Server,
) -> None:
    images = task_images(label_studio.url)
    with pytest.raises(OSError, match="answered 404"):
        images.read("/data/upload/1/gone.png")
    url = label_studio.serve("/data/upload/1/big.png", bytes(MAX_BYTES + 1))
    with pytest.raises(ImageError, match="more than"):
        images.read(url)
