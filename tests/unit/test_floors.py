"""The floors of the package: imports go doors -> flow -> edges -> core -> ground, never up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

BACKEND = Path(__file__).parents[2] / "backend"
FLOORS = (
    {"errors", "settings", "strategy_names", "logs", "progress", "command"},  # ground
    {
        "acquisition",
        "calibration",
        "consensus",
        "decide",
        "device",
        "diversity",
        "evaluation",
        "forecast",
        "gate",
        "head",
        "inference",
        "interval",
        "label_errors",
        "query",
        "resnet",
        "resnet_layout",
        "training",
    },  # core
    {
        "pixels",
        "pool",
        "pool_folder",
        "pool_sources",
        "downloads",
        "weights",
        "labelstudio",
        "task_images",
        "registry",
        "version_meta",
        "annotator_figures",
        "open_image",
        "labeling",
        "task_data",
        "project_db",
        "earlier_release",
        "mirror",
        "store",
        "pruning",
        "pool_scores",
        "tensor_file",
        "cores",
        "own_jobs",
        "training_queue",
        "backend_client",
    },  # edges
    {
        "learning_curve",
        "loop",
        "versions",
        "labels",
        "second_opinions",
        "reviews",
        "observe",
        "candidates",
        "ordering",
        "batches",
        "rounds",
        "controls",
        "services",
        "status",
        "status_model",
    },  # flow
    {
        "door",
        "server",
        "payloads",
        "model_service",
        "serving",
        "dashboard",
        "dashboard_view",
        "control_routes",
        "curve_picture",
        "metrics",
        "jobs",
        "clock",
        "processes",
    },  # doors
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
MODULES = sorted(path.stem for path in BACKEND.glob("*.py") if path.stem != "__init__")
# What a room keeps to itself: the library, and the only modules that may import it.
ROOMS = {
    "redis": {"own_jobs", "training_queue", "processes"},
    "rq": {"own_jobs", "training_queue", "jobs", "processes"},
    "uvicorn": {"server"},
    "flask": {"serving", "dashboard", "control_routes", "door"},
    "label_studio_sdk": {"labelstudio"},
    "label_studio_ml": {"serving"},
    "safetensors": {"tensor_file", "weights"},
    "cleanlab": {"consensus"},
    "matplotlib": {"curve_picture"},
    "prometheus_client": {"metrics"},
    "sqlite3": {"project_db", "mirror", "store", "earlier_release"},
}
# The core: numerical libraries only, no input or output.
CORE_MAY_IMPORT = {
    "__future__", "backend", "cleanlab", "collections", "contextlib", "dataclasses", "functools",
    "io", "itertools", "math", "numpy", "scipy", "sklearn", "torch", "torchvision", "typing",
    "warnings",
}  # fmt: skip


def imports_of(module: str) -> set[str]:
    """Dotted names that a module imports, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse((BACKEND / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= (
                {f"backend.{alias.name}" for alias in node.names}
                if node.module == "backend"
                else {node.module}
            )
    return names


def own_imports_of(module: str) -> set[str]:
    """Modules of the package that a module imports."""
    return {name.split(".")[1] for name in imports_of(module) if name.startswith("backend.")}


def reachable_from(module: str) -> set[str]:
    found: set[str] = set()
    waiting = {module}
    while waiting:
        found |= (now := waiting)
        waiting = {name for m in now for name in own_imports_of(m)} - found
    return found


def test_every_module_has_a_floor_and_every_floor_its_modules() -> None:
    assert set(MODULES) == set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_from_a_floor_above_its_own(module: str) -> None:
    above = {name for name in own_imports_of(module) if FLOOR_OF[name] > FLOOR_OF[module]}
    assert not above


@pytest.mark.parametrize("module", sorted(FLOORS[1]))
def test_the_core_imports_numerical_libraries_alone(module: str) -> None:
    assert {name.split(".")[0] for name in imports_of(module)} <= CORE_MAY_IMPORT


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_stays_in_its_room(library: str) -> None:
    users = {m for m in MODULES if any(n.split(".")[0] == library for n in imports_of(m))}
    assert users <= ROOMS[library]
    assert users


def test_the_web_process_never_imports_training_code() -> None:
    assert not reachable_from("serving") & {"training", "rounds", "jobs"}


@pytest.mark.parametrize("door", ["clock", "dashboard"])
def test_what_is_published_and_what_ticks_are_light_and_load_no_torch(door: str) -> None:
    imported = {name.split(".")[0] for m in reachable_from(door) for name in imports_of(m)}
    assert "torch" not in imported


@pytest.mark.parametrize("door", ["serving", "clock", "dashboard"])
def test_cleanlab_and_its_pandas_are_loaded_by_workers_alone(door: str) -> None:
    assert "consensus" not in reachable_from(door)


def test_the_package_never_imports_its_scripts() -> None:
    assert not any(n.split(".")[0] == "scripts" for m in MODULES for n in imports_of(m))
