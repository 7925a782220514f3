"""Three people check an acceptance sample, and then the model labels the rest."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backend.images.known_labels import true_labels
from backend.labelstudio.project import LabelStudioProject
from backend.store.finish_store import FinishStore
from backend.store.project_record import project_root
from backend.store.project_store import ProjectStore
from scripts.research.accounts import invite_link, log_in, sign_up
from tests.integration.conftest import Stack
from tests.integration.people import Person, pool_of
from tests.patience import wait_for

COLLEAGUES = ("bo@example.org", "cy@example.org")


@contextmanager
def people_of(stack: Stack) -> Iterator[list[Person]]:
    """Return the admin and two colleagues who label the same project."""
    url, api_key = stack.info["label_studio_url"], stack.info["api_key"]
    link = invite_link(url, api_key)
    with ExitStack() as exits:
        people = [exits.enter_context(Person(stack))]
        for email in COLLEAGUES:
            sign_up(url, link, email)
            _, token = log_in(url, email)
            person = exits.enter_context(Person(stack))
            person.http.headers["Authorization"] = f"Token {token}"
            people.append(person)
        yield people


def test_people_check_a_sample_and_the_model_labels_the_rest(stack: Stack, tmp_path: Path) -> None:
    settings = {"POOL": "digits", "SEED_LABELS": "400"}
    with stack.with_project("Labeled by the model", **settings) as own, people_of(own) as people:
        ann, bo, cy = people
        info = own.info
        project = LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])
        config = project.label_config()
        option = ("--project", str(project.project_id))
        root = project_root(own.settings.model_dir, project.project_id)
        finish = FinishStore(root)
        truth = true_labels(pool_of(own))
        ann.wait_for_rest(1)

        # A plan, then a try that begins while no ranker can ask for its sample
        shown = own.run("scripts.finish", *option)
        assert shown.returncode == 0, shown.stderr
        assert "images that no one has been asked about" in shown.stdout
        assert finish.tries() == []
        with own.without("ranker"):
            begun = own.run("scripts.finish", *option, "--max-error", "0.3", "--yes")
            assert begun.returncode == 0, begun.stderr
        asking = finish.asking()
        assert asking is not None
        again = own.run("scripts.finish", *option, "--max-error", "0.3", "--yes")
        assert f"Acceptance sample: 0 of {asking.n_sample} labeled" in again.stdout
        labels = {image.image_id: image.label for image in finish.sampled_images(1)}

        def open_images() -> dict[str, int]:
            """Return the task of each open image of the sample."""
            return {t.image_id: t.task_id for t in project.open_tasks() if t.image_id in labels}

        # The sample is served first and without a guess
        wait_for(lambda: len(open_images()) >= min(10, asking.n_sample), "the sample")
        served = ann.next_task()
        assert served["data"]["image_id"] in labels
        assert all(p["result"] == [] for p in served["predictions"])
        assert served["data"]["hint"] == ""
        assert "asked_probs" not in served["data"]

        # Everyone agrees with the model about two images each; then Ann seems to find an error
        for person in people:
            for image_id in list(open_images())[:2]:
                person.submit(open_images()[image_id], labels[image_id], config)
        image_id, task_id = next(iter(open_images().items()))
        other = next(name for name in config.choices if name != labels[image_id])
        ann.submit(task_id, other, config)
        for person in (bo, cy):
            wait_for(lambda: task_id in {t.task_id for t in project.open_tasks()}, "another person")
            person.submit(task_id, labels[image_id], config)

        def is_sample_labeled() -> bool:
            for image_id, task_id in list(open_images().items()):
                bo.submit(task_id, labels[image_id], config)
            return finish.asking() is None

        wait_for(is_sample_labeled, "the end of the try")
        [ended] = finish.tries()
        assert (ended.state, ended.n_errors) == ("passed", 0)

        # Labels by the model are not annotations, and their images are not queried
        model_labels = finish.model_labels()
        assert len(model_labels) == ended.n_left
        wait_for(lambda: ann.status()["open_tasks"] >= 10, "the next batch")
        queried = {task.image_id for task in project.tasks()}
        assert not queried & set(model_labels)
        assert not ProjectStore(root).annotated_images() & set(model_labels)
        n_wrong = sum(label.label != truth[i] for i, label in model_labels.items())
        assert n_wrong <= ended.most_wrong
        status = wait_for(
            lambda: ann.status() if ann.status()["finish"]["left_for_people"] else None,
            "the number of images that are left",
        )
        assert status["finish"]["model_labels"] == ended.n_left
        told = own.run("scripts.finish", *option)
        assert (
            "can be labeled by the model (at most 30 % wrong, with 95 % confidence)" in told.stdout
        )
        assert [error for error in status["errors"] if "label the rest" in error["where"]] == []

        # The exported file distinguishes labels by the model from labels by people
        exported = own.run("scripts.export", "labels", str(tmp_path / "labels.csv"), *option)
        assert exported.returncode == 0, exported.stderr
        with (tmp_path / "labels.csv").open(newline="") as file:
            rows = {row["image_id"]: row for row in csv.DictReader(file)}
        by_model = {i: row["label"] for i, row in rows.items() if row["labeled_by"] == "model"}
        assert by_model == {i: label.label for i, label in model_labels.items()}
        assert {(rows[i]["labeled_by"], rows[i]["asked_strategy"]) for i in labels} == {
            ("people", "acceptance")
        }
