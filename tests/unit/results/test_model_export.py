"""Export versions as folders, and use these folders without Tightloop."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.base.arrays import Probs
from backend.base.errors import ExportError, NoModelError
from backend.images.decode import open_image
from backend.images.framing import View, frame
from backend.measures.calibration import rescale
from backend.network.inference import load_model, normalizer, resize
from backend.results import model_export
from backend.results.model_export import export_model
from backend.results.onnx_export import is_available
from backend.store.project_record import ProjectRecord, write_record
from backend.store.registry import Registry
from backend.store.version_meta import Meta
from tests.unit.results.exported_models import CLASSES, network_state, save_version
from tests.unit.store.test_registry import record

FILES = {"README.md", "classes.json", "inference.json", "metrics.json", "model.safetensors"}
PNG, JPEG = "square.png", "photo.jpg"


def export(root: Path, folder: Path, *, is_forced: bool = False) -> str:
    """Export the version in service; return why model.onnx was left out."""
    written, notice = export_model(
        root, None, folder, is_forced=is_forced, progress=lambda *_: None
    )
    assert written == folder
    return notice


@pytest.fixture(autouse=True)
def _without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out model.onnx, because writing it takes long."""
    monkeypatch.setattr(model_export, "is_available", lambda: False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "p7"
    write_record(root, project())
    save_version(root, "r0001", image_size=64, framing="whole")
    Registry(root).promote("r0001")
    return root


def project(**changes: object) -> ProjectRecord:
    return record().model_copy(update={"classes": CLASSES, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_isolated(folder: Path, *arguments: str) -> str:
    """Run Python in a process that imports nothing from this repository."""
    command = [sys.executable, "-I", "-W", "error", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def save_images(folder: Path) -> list[str]:
    """Save images of several formats, shapes and modes; return their names."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (12, 18, 3), dtype=np.uint8)).resize((1200, 800))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    rgba = photo.resize((90, 60)).convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize((90, 60)))
    photo.resize((64, 64)).save(folder / PNG)
    photo.save(folder / JPEG)
    photo.save(folder / "rotated.jpg", exif=rotated)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("L").resize((50, 70)).save(folder / "gray.png")
    photo.resize((300, 30)).quantize(16).save(folder / "palette.gif")
    photo.resize((3, 500)).save(folder / "narrow.png")
    rgba.save(folder / "transparent.png")
    rgba.save(folder / "transparent.webp", lossless=True)
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json")


def shown_probs(meta: Meta, paths: Sequence[Path]) -> Probs:
    """Return the probabilities that Tightloop computes for image files, but in fp32."""
    view: View = meta.view
    squares = []
    for path in paths:
        with open_image(path, 10**8) as image:
            squares.append(frame(image, view.framing, (view.side_px, view.side_px)))
    state = {name: torch.from_numpy(array) for name, array in network_state().items()}
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    normalized = resize(normalizer(torch.device("cpu"))(pixels), view.image_size)
    raw = load_model(state, len(CLASSES), "cpu")(normalized).softmax(dim=1).numpy()
    return rescale(raw, meta.temperature)


@pytest.mark.parametrize("framing", ["whole", "middle"])
def test_predict_gives_the_probabilities_of_tightloop_in_a_process_that_cannot_import_it(
    tmp_path: Path, framing: str
) -> None:
    root, folder, images = tmp_path / "p7", tmp_path / "out", tmp_path / "images"
    images.mkdir()
    write_record(root, project())
    meta = save_version(root, "r0001", image_size=64, framing=framing)
    Registry(root).promote("r0001")
    export(root, folder)
    names = save_images(images)
    paths = [images / name for name in names]
    check = "import importlib.util as u, sys; sys.exit(u.find_spec('backend') is not None)"
    run_isolated(folder, "-c", check)
    lines = run_isolated(folder, "predict.py", *map(str, paths)).splitlines()
    predicted = [json.loads(line) for line in lines]
    assert [one["image"] for one in predicted] == [*map(str, paths)]
    found = np.array([[one["probabilities"][name] for name in CLASSES] for one in predicted])
    expected = shown_probs(meta, paths)
    assert dict(zip(names, np.abs(found - expected).max(axis=1).round(3), strict=True)) == (
        dict.fromkeys(names, 0.0)
    )
    assert len({*expected.argmax(axis=1).tolist()}) >= 2


def test_predict_is_short() -> None:
    for framing in ("whole", "middle"):
        text = (model_export.TEMPLATES / f"predict_{framing}.txt").read_text()
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith('"""')]
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 120


def test_the_folder_has_all_files_and_the_figures_of_the_version(
    root: Path, tmp_path: Path
) -> None:
    notice = export(root, tmp_path / "out")
    assert notice == (
        "model.onnx was left out, because onnx, onnxruntime and onnxscript are not all installed: "
        "`make install` installs them"
    )
    found = contents(tmp_path / "out")
    assert {name for name in found if not name.startswith(".")} == FILES | {"predict.py"}
    assert json.loads(found["classes.json"]) == [*CLASSES]
    assert json.loads(found["inference.json"]) == {
        "framing": "whole",
        "image_size": 64,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "temperature": 1.5,
        "class_of_output": [0, 1, 2, 3],
    }
    modes = {(tmp_path / "out" / name).stat().st_mode for name in FILES}
    assert len(modes) == 1  # the weights are as readable as the other files
    metrics = json.loads(found["metrics.json"])
    assert metrics["validation"]["accuracy"] == 0.5
    low, high = metrics["validation"]["accuracy_interval_95"]
    assert (round(low, 3), round(high, 3)) == (0.478, 0.522)
    assert metrics["calibration"]["temperature"] == 1.5


def test_exporting_a_version_again_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    export(root, tmp_path / "one")
    export(root, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_folder_is_named_after_the_version(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export_model(root, "r0001", None, is_forced=False, progress=lambda *_: None)
    assert (tmp_path / "r0001" / "predict.py").is_file()


def test_an_earlier_export_is_replaced_only_if_forced(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export(root, folder)
    (folder / "classes.json").write_text("[]")
    with pytest.raises(ExportError, match="already exists"):
        export(root, folder)
    assert json.loads((folder / "classes.json").read_bytes()) == []
    export(root, folder, is_forced=True)
    assert json.loads((folder / "classes.json").read_bytes()) == [*CLASSES]


def test_a_version_that_cannot_be_exported_leaves_nothing(root: Path, tmp_path: Path) -> None:
    (root / "current").unlink()
    with pytest.raises(NoModelError, match="no version is in service yet"):
        export(root, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"p7"}


def test_a_full_disk_leaves_nothing_half_written(root: Path, tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from backend.results import model_export\n"
        "model_export.is_available = lambda: False\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
        "root, folder = map(Path, sys.argv[1:])\n"
        "options = {'is_forced': False, 'progress': lambda *_: None}\n"
        "model_export.export_model(root, None, folder, **options)\n"
    )
    command = [sys.executable, "-c", script, str(root), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ExportError" in done.stderr
    assert f"{tmp_path / 'out'} cannot be written" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"p7"}


def test_the_lines_of_the_card_give_the_probabilities_of_tightloop(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_export, "is_available", is_available)
    folder = tmp_path / "out"
    assert export(root, folder) == ""
    save_images(folder)
    meta = Registry(root).read_meta("r0001")
    [expected] = shown_probs(meta, [folder / PNG])
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert ["onnxruntime" in snippet for snippet in snippets] == [False, True]
    for snippet in snippets:
        found = json.loads(run_isolated(folder, "-c", f"{snippet}\nprint(probs[0].tolist())"))
        np.testing.assert_allclose(found, expected, atol=1e-3)
