"""The rooms of the package: imports go down only, and each library stays in its rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# From the ground up: a room imports itself and the rooms before it.
ROOMS = (
    "base",
    "measures",
    "people",
    "asking",
    "network",
    "images",
    "store",
    "labelstudio",
    "queue",
    "scale",
    "rounds",
    "results",
    "web",
    "workers",
)
# Numerical libraries only, no input or output.
CORE = ("measures", "people", "asking", "network")
CORE_MAY_IMPORT = {
    "__future__", "backend", "bisect", "cleanlab", "collections", "contextlib", "copy",
    "dataclasses", "functools", "io", "itertools", "math", "numpy", "scipy", "sklearn", "torch",
    "torchvision", "typing", "warnings",
}  # fmt: skip
LIBRARIES = {
    "cleanlab": {"people", "workers"},
    "flask": {"web"},
    "fsspec": {"images"},
    "label_studio_ml": {"web"},
    "label_studio_sdk": {"labelstudio"},
    "matplotlib": {"web"},
    "onnx": {"results"},
    "onnxruntime": {"results"},
    "prometheus_client": {"web"},
    "pyarrow": {"images", "results", "scale", "store"},
    "ray": {"scale"},
    "redis": {"queue", "workers"},
    "rq": {"queue", "workers"},
    "safetensors": {"store"},
    "sqlite3": {"store"},
    "uvicorn": {"web"},
}
BACKEND_FOLDER = ROOT / "backend"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in BACKEND_FOLDER.rglob("*.py")
    if path.name != "__init__.py"
)


@cache
def imports_of(module: str) -> frozenset[str]:
    """Dotted names that a module imports, also those inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(names)


def libraries_of(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports_of(module)}


def room_of(module: str) -> str:
    return module.split(".")[1]


def reachable_from(module: str) -> set[str]:
    """The package's modules that importing one loads, itself among them."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        found |= waiting
        waiting = {name for m in waiting for name in imports_of(m) if name in MODULES} - found
    return found


def test_the_package_holds_rooms_alone_and_each_says_in_a_sentence_what_is_inside() -> None:
    folders = {path.parent.name for path in BACKEND_FOLDER.glob("*/__init__.py")}
    assert folders == set(ROOMS)
    assert [path.name for path in BACKEND_FOLDER.glob("*.py")] == ["__init__.py"]
    for room in ROOMS:
        [sentence] = ast.parse((BACKEND_FOLDER / room / "__init__.py").read_text()).body
        assert isinstance(sentence, ast.Expr)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_from_a_room_above_its_own(module: str) -> None:
    own = ROOMS.index(room_of(module))
    rooms = {room_of(name) for name in imports_of(module) if name.startswith("backend.")}
    assert not rooms & set(ROOMS[own + 1 :])


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in CORE])
def test_the_core_imports_numerical_libraries_alone(module: str) -> None:
    assert libraries_of(module) <= CORE_MAY_IMPORT


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    assert {room_of(m) for m in MODULES if library in libraries_of(m)} == LIBRARIES[library]


def test_the_web_process_never_imports_training_code() -> None:
    loaded = reachable_from("backend.web.serving")
    assert not loaded & {"backend.network.training", "backend.rounds.rounds"}
    assert not any(room_of(module) == "workers" for module in loaded)


@pytest.mark.parametrize("door", ["backend.workers.clock", "backend.web.dashboard"])
def test_what_is_published_and_what_ticks_are_light_and_load_no_torch(door: str) -> None:
    assert not any("torch" in libraries_of(module) for module in reachable_from(door))


@pytest.mark.parametrize(
    "door", ["backend.web.serving", "backend.workers.clock", "backend.web.dashboard"]
)
def test_cleanlab_and_its_pandas_are_loaded_by_workers_alone(door: str) -> None:
    assert not any("cleanlab" in libraries_of(module) for module in reachable_from(door))


def test_what_starts_often_starts_without_the_slow_libraries() -> None:
    doors = "backend.workers.clock, backend.web.dashboard, scripts.models, scripts.status"
    slow = ("torch", "sklearn", "pandas", "cleanlab", "scipy.stats")
    code = f"import sys, {doors}; print(*(name for name in {slow} if name in sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "\n"


def test_nothing_needs_ray_unless_it_is_asked_for() -> None:
    scripts = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "scripts").rglob("*.py")
    ]
    rooms = [module for module in MODULES if room_of(module) != "scale"]
    names = ", ".join([*rooms, "backend.scale.cluster", *scripts])
    code = f"import sys; sys.modules['ray'] = None; import {names}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_package_never_imports_its_scripts() -> None:
    assert not any("scripts" in libraries_of(module) for module in MODULES)
