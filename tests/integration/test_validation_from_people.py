"""One person labels a folder of unlabeled images, and with it the validation sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.images.digest import digest
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.task_data import is_validation
from tests.integration.conftest import Stack
from tests.integration.people import Person
from tests.patience import wait_for
from tests.unit.images.image_folders import save_image

SHADES = {"dark": 40, "light": 215}


def save_photos(folder: Path, count: int) -> dict[str, str]:
    """Save images of two classes, and return the class of each image."""
    truth = {}
    for number in range(count):
        label = [*SHADES][number % 2]
        name = f"{number}.png"
        save_image(folder / name, (SHADES[label], SHADES[label], number), size=(32, 32))
        truth[digest(name)] = label
    return truth


def test_a_person_labels_the_validation_sample_first_and_versions_are_measured_on_it(
    stack: Stack, tmp_path: Path
) -> None:
    truth = save_photos(tmp_path / "photos", 100)  # 20 of them are the sample
    settings = {
        "POOL": str(tmp_path / "photos"),
        "CLASSES": "dark,light",
        "SEED_LABELS": "0",
        "VALIDATION_LABELS": "30",
    }
    with stack.with_project("Labeled by one person", **settings) as own, Person(own) as person:
        info = own.info
        project = LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])
        config = project.label_config()

        def label(task: dict[str, Any]) -> None:
            person.submit(task["id"], truth[task["data"]["image_id"]], config)

        def n_labeled() -> int:
            return int(person.status()["validation_labels"]["labeled"])

        first_batch = project.open_tasks()
        assert len(first_batch) == 10
        for first in first_batch:
            person.submit(first.task_id, truth[first.image_id], config)
        status = person.wait_for_rest(1)
        assert status["validation_by"] == "people"
        assert (n_labeled(), status["validation"]["images"]) == (2, 2)

        skipped = person.next_task()
        assert is_validation(skipped["data"])
        assert [p["result"] for p in skipped["predictions"]] == [[]]
        path = f"/api/tasks/{skipped['id']}/annotations/"
        skip = {"result": [], "was_cancelled": True}
        person.http.post(path, json=skip).raise_for_status()
        wait_for(
            lambda: skipped["id"] in {task.task_id for task in project.open_tasks()},
            "the image that was skipped",
        )
        label(skipped)
        wait_for(lambda: n_labeled() == 3, "the third validation label")
        expected = 3
        while is_validation((task := person.next_task())["data"]):
            label(task)
            expected += 1
        assert all(p["result"] for p in task["predictions"])

        person.start_training()
        status = person.wait_for_rest(2)
        assert (n_labeled(), status["validation"]["images"]) == (expected, expected)
        assert expected >= 4
        assert status["validation_labels"]["undecided"] == 0
        assert status["errors"] == []
