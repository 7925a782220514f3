"""Put labeled images into folders, as links or copies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from backend.results.label_export import export_folder
from backend.results.label_folders import folder_name
from backend.results.output import MARKER
from tests.unit.images.image_folders import save_image
from tests.unit.results.exporter import PROJECT, Exporter, set_up


def quiet(*_: object) -> None:
    """Report no progress."""


def export(exporter: Exporter, path: Path, *, has_copies: bool = False) -> dict[str, str]:
    """Export a folder; return why images are missing."""
    exported = export_folder(
        exporter.settings, PROJECT, path, is_forced=True, has_copies=has_copies, progress=quiet
    )
    return dict(exported.missing)


def files(folder: Path) -> list[str]:
    """Return the paths of all files below a folder except the marker."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() and path.name != MARKER)
    return sorted(str(path.relative_to(folder)) for path in paths)


def test_images_are_links_to_their_files_in_a_folder_per_class(
    exporter: Exporter, tmp_path: Path
) -> None:
    exporter.annotate("1.png", "cat")
    exporter.annotate("2.png", "dog")
    exporter.let_model_label({"3.png": ("dog", 0.9)})
    out = tmp_path / "out"
    assert export(exporter, out) == {}
    cat = f"train/cat/{exporter.ids['1.png']}.png"
    dogs = [f"train/dog/{exporter.ids[path]}.png" for path in ("2.png", "3.png")]
    assert files(out) == sorted(["labels.csv", cat, *dogs])
    assert (out / cat).readlink() == exporter.pool / "1.png"


def test_copies_are_files_of_their_own(exporter: Exporter, tmp_path: Path) -> None:
    exporter.annotate("1.png", "cat")
    export(exporter, out := tmp_path / "out", has_copies=True)
    copy = out / f"train/cat/{exporter.ids['1.png']}.png"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (exporter.pool / "1.png").read_bytes()


def test_a_lost_image_comes_from_the_pixels_kept_of_labeled_images_or_is_named(
    exporter: Exporter, tmp_path: Path
) -> None:
    exporter.annotate("1.png", "cat")
    exporter.annotate("2.png", "dog")
    save_image(exporter.root / f"labeled/{exporter.ids['1.png']}.png", (1, 0, 0))
    for path in ("1.png", "2.png"):
        (exporter.pool / path).unlink()
    missing = export(exporter, out := tmp_path / "out")
    assert missing == {"2.png": "No such file or directory"}
    kept = f"train/cat/{exporter.ids['1.png']}.png"
    assert files(out) == ["labels.csv", kept]
    with Image.open(out / kept) as image:
        assert image.getpixel((0, 0)) == (1, 0, 0)
    assert len((out / "labels.csv").read_text().splitlines()) == 3  # also the missing image


def test_the_digits_are_copied_as_png_files(tmp_path: Path) -> None:
    exporter = set_up(tmp_path, pool="digits", classes=tuple("0123456789"))
    n_rows = len(exporter.read().rows)
    out = tmp_path / "out"
    assert export(exporter, out) == {}
    images = [path for path in files(out) if path.endswith(".png")]
    assert len(images) == n_rows > 100
    assert {Path(path).parts[0] for path in images} == {"validation", "test"}
    with Image.open(out / images[0]) as image:
        assert image.format == "PNG"


def test_paths_that_are_not_utf8_and_odd_classes_become_folders_and_links(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff.png")
    for i, path in enumerate((odd, "1.png", "2.png")):
        save_image(tmp_path / "pool" / path, (i, 0, 0))
    exporter = set_up(tmp_path, classes=("a/b", ".."))
    exporter.annotate(odd, "a/b")
    exporter.annotate("1.png", "..")
    out = tmp_path / "out"
    assert export(exporter, out) == {}
    assert files(out) == sorted(
        [
            "labels.csv",
            f"train/a%2Fb/{exporter.ids[odd]}.png",
            f"train/%2E./{exporter.ids['1.png']}.png",
        ]
    )
    [row] = [row for row in exporter.read().rows if row.label == "a/b"]
    assert row.image == "quoted:%FF.png"


def test_the_images_of_a_list_are_links_to_its_files(tmp_path: Path) -> None:
    for i in range(2):
        save_image(tmp_path / f"photos/{i}.png", (i, 0, 0))
    (tmp_path / "list.csv").write_text("image\nphotos/0.png\nphotos/1.png\n")
    exporter = set_up(tmp_path, pool=str(tmp_path / "list.csv"))
    exporter.annotate("photos/0.png", "cat")
    assert export(exporter, tmp_path / "out") == {}
    link = tmp_path / f"out/train/cat/{exporter.ids['photos/0.png']}.png"
    assert link.readlink() == tmp_path / "photos/0.png"


@pytest.mark.parametrize(
    ("label", "name"),
    [("cat", "cat"), ("a/b", "a%2Fb"), ("..", "%2E."), (".cat", "%2Ecat"), ("50%", "50%25")],
)
def test_a_class_is_a_folder_name_that_stays_where_it_belongs(label: str, name: str) -> None:
    assert folder_name(label) == name
