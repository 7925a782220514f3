"""A team attaches Tightloop to the project that it has worked in, and goes on labeling."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from backend.base.labeling import LabelConfig
from backend.labelstudio.client import create_project
from backend.labelstudio.project import LabelStudioProject
from tests.integration.conftest import CreateTables, Stack, running_stack
from tests.integration.people import Person
from tests.patience import wait_for

CONFIG = """
<View>
  <Header value="Is it dark?"/>
  <Image name="photo" value="$photo"/>
  <Choices name="shade" toName="photo"><Choice value="Light"/><Choice value="Dark"/></Choices>
</View>
"""
SHADES = {"Dark": 40, "Light": 215}
PARSED = LabelConfig("shade", "photo", "photo", ("Light", "Dark"))


@dataclass
class Team:
    """The people of a project that exists before Tightloop is attached to it."""

    stack: Stack
    project: LabelStudioProject
    person: Person

    def add_tasks(self, numbers: Iterable[int]) -> set[int]:
        """Upload an image for each number, as the button Import does; return the new tasks."""
        before = self.tasks().keys()
        photos = [(n, [*SHADES][n % 2]) for n in numbers]
        files = {str(n): (f"{n}-{shade}.png", _photo(n, shade)) for n, shade in photos}
        path = f"/api/projects/{self.project.project_id}/import"
        self.person.http.post(path, files=files).raise_for_status()
        return self.tasks().keys() - before

    def tasks(self) -> dict[int, dict[str, Any]]:
        """Return all tasks with their predictions."""
        query = {"project": self.project.project_id, "fields": "all", "page_size": 1000}
        return {task["id"]: task for task in self.person.get("/api/tasks/", **query)["tasks"]}

    def label(self, task: Mapping[str, Any]) -> None:
        """Annotate a task correctly."""
        shade = next(shade for shade in SHADES if shade in task["data"]["photo"])
        self.person.submit(task["id"], shade, PARSED)

    def predicted(self, version: str) -> set[int]:
        """Return the open tasks that have a prediction of a version."""
        return {
            task_id
            for task_id, task in self.tasks().items()
            if version in {p["model_version"] for p in task["predictions"]}
            and not task["total_annotations"]
        }

    def change(self, **settings: Any) -> None:
        """Change settings of the project, as its settings pages do."""
        path = f"/api/projects/{self.project.project_id}/"
        self.person.http.patch(path, json=settings).raise_for_status()

    def settings(self) -> Mapping[str, Any]:
        """Return the project's settings."""
        found: Mapping[str, Any] = self.person.get(f"/api/projects/{self.project.project_id}/")
        return found


def _photo(number: int, shade: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), (SHADES[shade], SHADES[shade], number)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def team(create_tables: CreateTables) -> Iterator[Team]:
    """A team with 60 tasks, 12 of them annotated, that attaches Tightloop."""
    with running_stack(create_tables, SEED_LABELS="0", BATCH_SIZE="8", OVERLAP="") as stack:
        info = stack.info
        server = info["label_studio_url"], info["api_key"]
        project_id = create_project(
            *server, title="Photos of the team", label_config=CONFIG, sampling="Sequential sampling"
        )
        place = SimpleNamespace(info={**info, "project_id": project_id})
        with Person(place) as person:
            team = Team(stack, LabelStudioProject(*server, project_id), person)
            team.add_tasks(range(60))
            for task in sorted(team.tasks().values(), key=lambda task: task["id"])[:12]:
                team.label(task)
            done = stack.run("scripts.setup_project", "--attach", str(project_id), "--yes")
            assert done.returncode == 0, f"{done.stdout}{done.stderr}"
            yield team


def rest(team: Team, round_: int = 1) -> tuple[dict[str, Any], str]:
    """Wait until a round is done and its order is in place; return the status and the name of the
    version in service in Label Studio.
    """
    status = team.person.wait_for_rest(round_)
    name = f"tl{team.project.project_id}-{status['version']}"
    wait_for(lambda: team.settings()["model_version"] == name, f"the order of {name}")
    return status, name


def test_the_teams_annotations_are_the_first_labels_and_its_tasks_come_in_the_models_order(
    team: Team,
) -> None:
    status, name = rest(team)
    assert status["trained_on_labels"] == 12
    assert status["is_attached"]
    asked = team.predicted(name)
    assert 8 <= len(asked) <= 16
    assert status["open_tasks"] == len(asked)
    for _ in range(4):
        task = team.person.next_task()
        assert task["id"] in asked
        assert [p["model_version"] for p in task["predictions"]] == [name]
        team.label(task)


def test_a_new_version_orders_the_asked_tasks_alone_again(team: Team) -> None:
    round_ = team.person.status()["round"]
    for _ in range(8):
        team.label(team.person.next_task())
    status, name = rest(team, round_ + 1)
    assert status["open_tasks"] == len(team.predicted(name)) <= 16
    assert len(team.tasks()) == 60
    assert status["errors"] == []


def test_tasks_that_the_team_adds_and_deletes_join_and_leave(team: Team) -> None:
    _, name = rest(team)
    before = team.person.status()
    added = team.add_tasks(range(60, 65))
    gone = team.predicted(name)
    for task_id in gone:
        team.person.http.delete(f"/api/tasks/{task_id}/").raise_for_status()

    def other_tasks() -> set[int]:
        return team.predicted(team.settings()["model_version"]) - gone

    wait_for(lambda: len(other_tasks()) >= 8, "other tasks in their place")
    n_images = before["pool_images"] + len(added) - len(gone)
    wait_for(
        lambda: abs(team.person.status()["pool_images"] - n_images) <= 2,  # without the sample
        "the new tasks in the pool",
    )
    assert team.tasks().keys() >= added
    assert team.person.status()["errors"] == []


def test_a_sampling_that_the_team_chose_is_left_alone_and_reported_in_the_status(
    team: Team,
) -> None:
    status, chosen = rest(team)
    assert status["order_problem"] is None
    team.change(sampling="Sequential sampling")
    problem = wait_for(lambda: team.person.status()["order_problem"], "the notice")
    assert f"--attach {team.project.project_id}" in problem
    team.person.start_training()
    team.person.wait_for_rest(status["round"] + 1)
    now = team.settings()
    assert (now["sampling"], now["model_version"]) == ("Sequential sampling", chosen)
    oldest = min(i for i, task in team.tasks().items() if not task["total_annotations"])
    assert team.person.next_task()["id"] == oldest

    team.change(sampling="Uncertainty sampling")
    _, latest = rest(team, status["round"] + 1)
    assert latest != chosen
    wait_for(lambda: team.person.status()["order_problem"] is None, "the end of the notice")
