"""Measure how much data is transferred when tasks with large photographs are read."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
from PIL import Image

from backend.base.labeling import Asked, NewTask, TaskImage
from backend.labelstudio import task_data
from backend.labelstudio.client import create_project, delete_project
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project import LabelStudioProject
from scripts.research.measurement import Figure, announce

N_TASKS, N_PHOTOS = 5_000, 100  # many tasks share a photograph
CLASSES = tuple(f"class {number}" for number in range(10))
PHOTO_PX = (800, 600)


def photo_tasks_figures(stack: Mapping[str, Any]) -> list[Figure]:
    """Create tasks with uploaded photographs in a new project; count the bytes of reading them."""
    announce(f"measuring how much data reading {N_TASKS:,} photo tasks moves")
    server = stack["label_studio_url"], stack["api_key"]
    xml = label_config_xml(CLASSES, has_hint=True, is_large=True)
    project_id = create_project(*server, title="Photo tasks", label_config=xml)
    try:
        project = LabelStudioProject(*server, project_id)
        photo = TaskImage(_photograph(), "image/jpeg")
        addresses = [*project.upload({f"{n:016x}": photo for n in range(N_PHOTOS)}).values()]
        project.import_tasks([_task(n, addresses[n % N_PHOTOS]) for n in range(N_TASKS)])
        n_bytes = _count_bytes(lambda: list(project.read_tasks()))
    finally:
        delete_project(*server, project_id)
    photo_kb = f"{len(photo.content) / 1e3:.0f} kB each"
    return [
        Figure(
            f"reading {N_TASKS:,} annotated tasks of photographs, {photo_kb}",
            f"{n_bytes / 1e6:.1f} MB",
            "<= 20 MB",
        )
    ]


def _photograph() -> bytes:
    """Return a JPEG of noise, which is larger than a photograph with as many pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (*PHOTO_PX[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return file.getvalue()


def _task(number: int, address: str) -> NewTask:
    image_id = f"{number:016x}"
    probs = (0.1,) * len(CLASSES)
    asked = Asked(image_id, 3, "least_confidence", "r0003", confidence=0.1, probs=probs)
    guesses = ", ".join(f"{name} 10 %" for name in CLASSES[:3])
    data = task_data.write_asked(address, asked, f"r0003 guessed when it asked: {guesses}")
    return NewTask(image_id, data, label=CLASSES[number % len(CLASSES)])


def _count_bytes(run: Callable[[], object]) -> int:
    """Return the size of all responses that `run` receives."""
    n_bytes = 0
    request = httpx.Client.request

    def counted(client: httpx.Client, *args: Any, **options: Any) -> httpx.Response:
        nonlocal n_bytes
        response = request(client, *args, **options)
        n_bytes += len(response.content)
        return response

    with patch.object(httpx.Client, "request", counted):
        run()
    return n_bytes
