"""Delete a project in Label Studio while the stack runs."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx

from backend.store.project_record import FORGOTTEN, known_projects, project_root
from tests.integration.conftest import Stack
from tests.patience import PATIENCE_S, wait_for

TITLE = "Deleted under test"


def test_a_deleted_project_is_named_once_disturbs_no_other_and_is_forgotten_on_request(
    stack: Stack,
) -> None:
    def status() -> dict[str, object]:
        return dict(json.loads(stack.run("scripts.status", "--json").stdout))

    def forget(project_id: int) -> tuple[int, str]:
        done = stack.run("scripts.setup_project", "--forget", str(project_id), "--yes")
        return done.returncode, done.stdout + done.stderr

    def n_log_lines() -> int:
        return (stack.folder / "log/clock.log").read_text().count("is gone from Label Studio")

    first_id = stack.info["project_id"]
    options = ("--title", TITLE, "--pool", "digits", "--seed-labels", "0", "--json")
    created = stack.run("scripts.setup_project", *options)
    assert created.returncode == 0, created.stderr
    project_id = json.loads(created.stdout)["project_id"]
    root = project_root(stack.settings.model_dir, project_id)
    code, said = forget(project_id)
    assert (code, f'project {project_id} ("{TITLE}") still exists' in said) == (1, True)

    headers = {"Authorization": f"Token {stack.info['api_key']}"}
    base_url, before = stack.info["label_studio_url"], n_log_lines()
    with httpx.Client(base_url=base_url, headers=headers, timeout=PATIENCE_S) as client:
        client.delete(f"/api/projects/{project_id}/").raise_for_status()
    wait_for(lambda: is_gone(status, project_id), "the status to say that the project is gone")
    found = status()
    projects = {project["project_id"]: project for project in found["projects"]}  # type: ignore[attr-defined]
    assert f"scripts.setup_project --forget {project_id}" in projects[project_id]["notices"][0]
    assert projects[project_id]["errors"] == []
    assert not projects[first_id]["is_gone"]
    assert not any("is gone" in notice for notice in projects[first_id]["notices"])
    services = {service["name"]: service["problem"] for service in found["services"]}  # type: ignore[attr-defined]
    assert services["label_studio"] == ""
    again = stack.run("scripts.setup_project")
    assert again.returncode == 0, again.stderr
    assert f"--forget {project_id}" in again.stdout

    code, said = forget(project_id)
    assert (code, str(root) in said) == (0, True), said
    assert (root / FORGOTTEN).exists()
    assert known_projects(stack.settings.model_dir) == [first_id]
    assert stack.run("scripts.status").stdout.count("is gone") == 0
    assert n_log_lines() == before + 1


def is_gone(status: Callable[[], dict[str, object]], project_id: int) -> bool:
    projects = status()["projects"]
    assert isinstance(projects, list)
    return any(p["project_id"] == project_id and p["is_gone"] for p in projects)
