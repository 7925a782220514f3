"""Images are added to a folder, and removed from it, while the stack runs."""

from __future__ import annotations

from pathlib import Path

import httpx

from backend.images.digest import digest
from backend.images.index import Index
from backend.labelstudio.project import LabelStudioProject
from backend.store.project_record import POOL_INDEX, project_root
from tests.integration.conftest import Stack
from tests.patience import PATIENCE_S, wait_for
from tests.unit.images.image_folders import save_image


def save_photo(folder: Path, number: int) -> Path:
    return save_image(folder / f"{number}.png", (9, 9, number), size=(40, 30))


def image_ids(numbers: range) -> set[str]:
    return {digest(f"{number}.png") for number in numbers}


def test_added_images_become_tasks_and_tasks_of_removed_ones_are_closed(
    stack_with_large_batches: Stack, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    photos = [save_photo(folder, number) for number in range(12)]
    settings = {
        "POOL": str(folder),
        "CLASSES": "cat,dog",
        "SEED_LABELS": "0",
        "WEIGHTS": "none",
    }
    with stack_with_large_batches.with_project("Photos that change", **settings) as stack:
        info = stack.info
        project = LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])

        root = project_root(stack.settings.model_dir, info["project_id"])

        def asked() -> set[str]:
            return {task.image_id for task in project.open_tasks()}

        def of_pool(numbers: range) -> set[str]:
            """Return those images that are not in the validation sample, most of which wait."""
            index = Index.read(root / POOL_INDEX)
            assert index is not None
            return image_ids(numbers) & {*index.image_ids[index.splits == "pool"]}

        assert len(of_pool(range(12))) == 10
        assert len(asked()) == 11  # one validation label is wanted
        assert asked() > of_pool(range(12))
        for number in range(12, 17):
            save_photo(folder, number)
        press(stack, "rescan")
        wait_for(lambda: asked() > of_pool(range(17)) > of_pool(range(12)), "the new images")

        first = next(task for task in project.open_tasks() if task.image_id in of_pool(range(12)))
        project.add_ground_truth(first.task_id, "cat", annotator=None)
        for photo in photos:
            photo.unlink()
        done = stack.run("scripts.sync", "--rescan", "--project", str(info["project_id"]))
        assert done.returncode == 0, done.stderr
        wait_for(lambda: not asked() & image_ids(range(12)), "the closed tasks")
        assert asked() >= of_pool(range(12, 17))
        assert {task.image_id for task in project.tasks()} - asked() == {first.image_id}
        status = httpx.get(f"{info['backend_url']}/status", timeout=PATIENCE_S).json()
        [shown] = [p for p in status["projects"] if p["project_id"] == info["project_id"]]
        assert (shown["pool_images"], shown["undecoded_images"]) == (5, 0)
        assert shown["errors"] == []


def press(stack: Stack, button: str) -> None:
    """Press a button of the dashboard."""
    settings = stack.settings
    login = (settings.dashboard_user, settings.dashboard_password.get_secret_value())
    response = httpx.post(
        f"{stack.info['backend_url']}/dashboard/{button}",
        data={"project": stack.info["project_id"]},
        auth=login,
        timeout=PATIENCE_S,
    )
    assert response.status_code == 303, response.text
