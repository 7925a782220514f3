"""Label with the oracle of the long run, and measure what a stack uses."""

from __future__ import annotations

from pathlib import Path

from backend.images.known_labels import true_labels
from backend.labelstudio.project import LabelStudioProject
from scripts.research.footprint import measure
from scripts.research.labeling_oracle import labeling_oracle
from tests.integration.conftest import Stack
from tests.integration.people import pool_of


def test_the_oracle_labels_correctly_and_corrects_its_own_mistakes(stack: Stack) -> None:
    with stack.with_project("Long run", SEED_LABELS="0", TRAIN="full") as place:
        info, truth = place.info, true_labels(pool_of(place))
        project = LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])

        def n_right() -> tuple[int, int]:
            given = [a for of_task in project.annotations().values() for a in of_task]
            return sum(truth[a.image_id] == a.label for a in given), len(given)

        with labeling_oracle(info, place.settings.data_dir) as oracle:
            oracle.label(3)
            assert n_right() == (3, 3)
            oracle.change(2)
            assert n_right() == (1, 3)
            oracle.change(2)
            assert n_right() == (3, 3)


def test_a_footprint_contains_everything_that_a_stack_uses(stack: Stack) -> None:
    info = stack.info
    counts = LabelStudioProject(
        info["label_studio_url"], info["api_key"], info["project_id"]
    ).counts()
    found = measure(stack.folder, rest_s=1)
    assert all(amount > 0 for name, amount in found["memory, MB"].items())
    assert found["memory, MB"]["together"] > found["memory, MB"]["label-studio"]
    assert found["CPU at rest, % of a core"].keys() == info["pids"].keys() - {"supervisord"}
    assert found["pages, kB"]["/status"] > 1
    assert found["Label Studio, rows"]["task"] >= counts.tasks
    assert found["Label Studio, rows"]["task_completion"] >= counts.annotations
    assert found["Label Studio, kB"]["task"] > 0
    assert found["Redis"]["keys tightloop:clock"] == 1
    assert found["project.db, rows"]["own_fact"] > 0
    assert found["other folders, kB"]["postgres/pg_wal"] > 0
    n_logs = len(list(Path(stack.folder / "log").iterdir()))
    assert len(found["logs, kB"]) == n_logs
