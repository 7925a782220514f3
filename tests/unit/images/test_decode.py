"""Test that images of every kind decode alike in tiles and as a whole, and in how much memory."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from backend.base.errors import ImageError
from backend.images import decode
from backend.images.decode import open_image, read_rgb

REPO = Path(__file__).parents[3]
SIDE = 7070  # 49,984,900 pixels
LIMIT = 50_000_000


def noise(width: int = 37, height: int = 23) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(content: bytes, shrink: tuple[float, float], max_pixels: int = LIMIT) -> Image.Image:
    with open_image(io.BytesIO(content), max_pixels) as image:
        return read_rgb(image, shrink)


def whole(content: bytes) -> Image.Image:
    """Decode an image simply, all at once."""
    image: Image.Image
    with Image.open(io.BytesIO(content)) as image:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return image.convert("RGB")


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def palette_with_alpha() -> Image.Image:
    image = noise().convert("RGB").quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16))
    return image


def grey_16_bit() -> Image.Image:
    return Image.fromarray(np.arange(37 * 23, dtype=np.uint16).reshape(23, 37) * 70)


KINDS = {
    "1": encoded(noise().convert("1")),
    "1 with a transparent value": encoded(noise().convert("1"), transparency=0),
    "L": encoded(noise().convert("L")),
    "L with a transparent value": encoded(noise().convert("L"), transparency=7),
    "LA": encoded(noise().convert("LA")),
    "P": encoded(noise().convert("RGB").quantize(16)),
    "P with alpha": encoded(palette_with_alpha()),
    "P with a transparent index": encoded(noise().convert("RGB").quantize(16), transparency=3),
    "RGB with a transparent color": encoded(Image.new("RGB", (37, 23), (1, 2, 3)),
                                            transparency=(1, 2, 3)),
    "RGBA": encoded(noise()),
    "I;16": encoded(grey_16_bit()),
    "I;16B": encoded(grey_16_bit().point(lambda value: value).convert("I;16B"), "TIFF"),
    "CMYK": encoded(noise().convert("CMYK"), "TIFF"),
    "GIF": encoded(noise().convert("RGB").quantize(16), "GIF", transparency=3),
    "WEBP": encoded(noise(), "WEBP", lossless=True),
    "TIFF": encoded(noise(), "TIFF", compression="tiff_lzw"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [(1, 1), (2, 2), (3, 5), (40, 1)])
def test_an_image_read_in_tiles_equals_the_whole_image_reduced(
    kind: str, factor: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "TILE_PX", 10)
    shrink = decode.GAP * factor[0], decode.GAP * factor[1]
    expected = whole(KINDS[kind]).reduce(factor)
    assert same(read(KINDS[kind], shrink), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_read_in_tiles_is_turned_upright(
    kind: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "TILE_PX", 10)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    # Whole blocks only: the rest of a block would move to another side when turned.
    file = encoded(noise(36, 24), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    small = read(file, (2 * decode.GAP, 2 * decode.GAP))
    assert same(small, whole(file).reduce(2))
    assert small.size == ((18, 12) if orientation < 5 else (12, 18))


@pytest.mark.parametrize("progressive", [True, False])
def test_a_large_jpeg_keeps_its_shape_and_twice_the_wanted_pixels(
    progressive: bool,
) -> None:
    halves = Image.new("RGB", (3000, 2000), "red")
    halves.paste((0, 0, 255), (1500, 0, 3000, 2000))
    small = read(encoded(halves, "JPEG", progressive=progressive), (30, 30))  # to be 100 x 67
    assert small.size == (375, 250)
    assert small.getpixel((180, 125)) == pytest.approx((255, 0, 0), abs=3)
    assert small.getpixel((195, 125)) == pytest.approx((0, 0, 255), abs=3)


def test_the_largest_jpeg_is_reduced_alike_in_both_directions() -> None:
    huge = read(encoded(Image.new("L", (9000, 4503)), "JPEG"), (60, 60))
    # An eighth is 1,125 x 563; 60 / 8 / 2 leaves a factor of 3.
    assert huge.size == (375, 188)


def test_too_many_pixels_are_an_error_before_decoding() -> None:
    file = encoded(Image.new("1", (300, 200)))
    assert read(file, (1, 1), 60_000).size == (300, 200)
    with pytest.raises(ImageError, match=r"300 x 200 pixels, more than 59,999 \(see MAX_IMAGE_PIX"):
        read(file, (1, 1), 59_999)


def test_a_webp_counts_double_because_its_decoder_keeps_copies() -> None:
    file = encoded(Image.new("RGB", (300, 200)), "WEBP")
    assert read(file, (1, 1), 120_000).size == (300, 200)
    with pytest.raises(ImageError, match="more than 59,999"):
        read(file, (1, 1), 119_999)


def test_pillows_warning_about_large_images_is_not_logged(
    recwarn: pytest.WarningsRecorder,
) -> None:
    file = encoded(Image.new("1", (9500, 9500)))  # Pillow warns from 89,478,485 pixels on
    with open_image(io.BytesIO(file), 100_000_000) as image:
        assert image.size == (9500, 9500)
    assert not recwarn.list


def test_a_large_image_waits_for_the_one_before_it_but_a_small_one_does_not() -> None:
    large, small = encoded(Image.new("1", (2001, 2000))), encoded(Image.new("1", (2000, 2000)))
    done = threading.Event()

    def read_large() -> None:
        read(large, (9, 9))
        done.set()

    waiting = threading.Thread(target=read_large)
    with decode._one_at_a_time:
        waiting.start()
        assert read(small, (9, 9)).size == (500, 500)
        assert not done.wait(0.5)
    waiting.join()
    assert done.is_set()


def test_a_damaged_large_image_does_not_block_the_next_ones() -> None:
    content = encoded(Image.effect_noise((2500, 2500), 50))
    for _ in range(2):
        with pytest.raises(ImageError, match="damaged"):
            read(content[: len(content) // 2], (9, 9))


# Memory


MEASURED = """
import ast, io, sys
from pathlib import Path
from PIL import Image

def peak_mb():
    [line] = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

def begin():
    global before
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = peak_mb()

def rise():
    return peak_mb() - before

def bomb(mode, kind="PNG", side=7070, **options):
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **options)
    return file.getvalue()
"""


def measured(program: str, *arguments: str) -> float:
    """Run a program; return the last number that it prints, the rise of its memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED + program, *arguments],
        cwd=REPO, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


PREDICT = """
import base64, threading
from backend.store.project_record import project_root
from backend.web.serving import create_app
from backend.base.settings import load_settings
from tests.unit.web.conftest import PROJECT, png, predict, put_in_service, task

app = create_app(load_settings(
    _env_file=None, model_dir=sys.argv[1], redis_url="redis://127.0.0.1:1/0",
    label_studio_url="http://127.0.0.1:9", label_studio_api_key="ls-token",
    backend_password="backend-pass", webhook_secret="hook-secret"))
put_in_service(project_root(Path(sys.argv[1]), PROJECT))
image = "data:image/png;base64," + base64.b64encode(bomb(sys.argv[2])).decode()
predict(app.test_client(), task(1, image=png((9, 9, 9))))  # loads the model

def ask(n_images):
    answers = predict(app.test_client(), *[task(i, image=image) for i in range(n_images)])
    assert len([a for a in answers if a["score"] is not None]) == n_images

n_requests = int(sys.argv[3])
begin()
requests = [threading.Thread(target=ask, args=(16 // n_requests,)) for _ in range(n_requests)]
[request.start() for request in requests]
[request.join() for request in requests]
print(rise())
"""


@pytest.mark.parametrize(("mode", "n_requests", "limit_mb"), [
    ("1", 1, 200), ("RGB", 4, 450),
])  # fmt: skip
def test_16_images_of_50_megapixels_in_predict_take_the_memory_of_one(
    tmp_path: Path, mode: str, n_requests: int, limit_mb: float
) -> None:
    assert measured(PREDICT, str(tmp_path), mode, str(n_requests)) < limit_mb


POOL = """
from backend.images.pool import open_pool

folder, side = Path(sys.argv[1]), int(sys.argv[2])
image = bomb("RGB" if side < 9000 else "1", side=side)
for name in ("cat", "dog"):
    (folder / "train" / name).mkdir(parents=True)
    Image.new("RGB", (8, 8), "red" if name == "cat" else "blue").save(
        folder / "train" / name / "small.png"
    )
    for number in range(4):
        distinct = image + f"{name}{number}".encode()
        (folder / "train" / name / f"{number}.png").write_bytes(distinct)
begin()
pool = open_pool(str(folder), folder.parent, seed=0)
assert len(pool.image_ids) == int(sys.argv[3])
for i in pool.image_ids:
    pool.task_image(i, 1600)
print(rise())
"""


@pytest.mark.parametrize(("side", "n_images", "limit_mb"), [(13_000, 2, 100), (SIDE, 9, 450)])
def test_a_pool_decodes_images_at_the_limit_one_at_a_time_and_none_over_it(
    tmp_path: Path, side: int, n_images: int, limit_mb: float
) -> None:
    taken = measured(POOL, str(tmp_path / "images"), str(side), str(n_images))
    assert taken < limit_mb


READ = """
from backend.images.decode import open_image, read_rgb

content = bomb(sys.argv[1], sys.argv[2], **ast.literal_eval(sys.argv[3]))
begin()
with open_image(io.BytesIO(content), 50_000_000) as image:
    small = read_rgb(image, (110, 110))
print(rise())
"""


@pytest.mark.parametrize(
    ("mode", "kind", "options", "limit_mb"),
    [
        ("RGBA", "PNG", {}, 450),
        ("I;16", "PNG", {}, 200),
        ("RGB", "JPEG", {}, 100),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}, 450),
        ("RGB", "TIFF", {"compression": "tiff_lzw", "tiffinfo": {274: 6}}, 450),
        ("P", "GIF", {}, 200),
        ("RGB", "WEBP", {"method": 0, "side": 5000}, 450),
    ],
)
def test_no_format_takes_much_more_memory_than_another(
    mode: str, kind: str, options: dict[str, Any], limit_mb: float
) -> None:
    assert measured(READ, mode, kind, repr(options)) < limit_mb
