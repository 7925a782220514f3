"""Print the report on annotators: its table, its remarks and its formats."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from backend.base.command_line import run
from backend.base.labeling import NewTask
from backend.images.pool import Pool, open_pool
from backend.store.project_record import project_root, write_record
from backend.store.project_rows import AnnotatorFigures
from scripts import annotators
from scripts.annotators import remarks, table
from scripts.console import options
from scripts.research.oracle import OracleProject
from tests.unit.store.test_registry import record

PROJECT = 7
ADA = AnnotatorFigures(
    annotator=1, name="Ada Lovelace", answers=1234, skipped=5, agreement=0.954, quality=0.9,
    quality_low=0.881, quality_high=1.0, guesses_shown=1000, guesses_taken=0.5, guesses_right=0.65,
    median_seconds=4.25,
)  # fmt: skip
BO = AnnotatorFigures(2, "Bo", 0, 7, None, None, None, None, 0, None, None, None)
YAMADA = replace(ADA, annotator=3, name="山田", answers=8, quality_high=0.92, median_seconds=71.0)


def test_columns_are_aligned_for_any_names_and_unknown_figures_are_dashes() -> None:
    assert table([ADA, YAMADA, BO]) == [
        "annotator     annotations  skipped  agreement  quality  95% interval  guesses accepted"
        "  guesses right  seconds",
        "Ada Lovelace        1,234        5        95%      90%   88% to 100%               50%"
        "            65%      4.2",
        "山田                    8        5        95%      90%   88% to  92%               50%"
        "            65%     71.0",
        "Bo                      0        7          -        -             -                 -"
        "              -        -",
    ]


# With 12 of 20 guesses right the interval ends at 78 %; with 96 of 100, at 98.4 %.
@pytest.mark.parametrize(
    ("shown", "taken", "right", "is_suspected"),
    [
        (20, 1.0, 0.6, True),
        (19, 1.0, 0.6, False),
        (20, 0.95, 0.6, False),
        (20, 0.6, 0.6, False),
        (100, 0.99, 0.96, True),
        (100, 0.98, 0.96, False),
        (100, 1.0, 1.0, False),
    ],
)
def test_accepting_nearly_all_guesses_is_suspicious_if_fewer_of_them_are_right(
    shown: int, taken: float, right: float, is_suspected: bool
) -> None:
    own = replace(ADA, guesses_shown=shown, guesses_taken=taken, guesses_right=right)
    found = remarks([own], "auto")
    assert (
        any("right or wrong" in line and "Ada Lovelace" in line for line in found) is is_suspected
    )


def test_a_remark_names_annotators_whose_images_nobody_else_labeled() -> None:
    alone = replace(ADA, annotator=4, name="Cy", quality=None, agreement=None)
    without_model = replace(ADA, annotator=5, name="Di", quality=None)
    rows = [ADA, BO, alone, without_model]
    [line] = remarks(rows, "1")
    assert line.startswith("Quality is unknown if no one else labeled the same images: Cy (")
    assert "set OVERLAP=auto" in line
    [line] = remarks(rows, "auto")
    assert "set OVERLAP" not in line


def test_a_skip_does_not_count_as_an_annotation() -> None:
    assert remarks([BO], "auto") == ["No annotations yet."]
    assert table([]) == []


class Staffed(OracleProject):
    def annotator_names(self) -> dict[int, str]:
        return {1: "Ada", 2: "Bo", 9: "Root"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return open_pool("digits", tmp_path_factory.mktemp("data"), seed=0)


@pytest.fixture
def project(pool: Pool) -> Staffed:
    """Return a project with two seed labels and four images; the first two were guessed as "0".

    Ada labels three of them 0, 1 and 2; Bo labels two 0 and 1, and skips one.
    """
    project = Staffed(pool.classes)
    guess = {"asked_probs": [0.91, *[0.01] * 9]}
    ids = pool.image_ids
    project.import_tasks(
        [NewTask(i, {}, label="3") for i in ids[:2]]
        + [NewTask(i, guess) for i in ids[2:4]]
        + [NewTask(i, {}) for i in ids[4:6]]
    )
    for task_id, label in ((3, "0"), (4, "1"), (5, "2")):
        project.answer(task_id, label, annotator=1)
    for task_id, label in ((3, "0"), (4, "1")):
        project.answer(task_id, label, annotator=2)
    project.answer(6, None, annotator=2, was_skipped=True)
    ada = project.answers[3][0]
    project.answers[3][0] = replace(ada, accepted_guess=True, seconds=3.0)
    project.answers[4][0] = replace(project.answers[4][0], seconds=5.0)
    return project


@pytest.fixture
def command(
    tmp_path: Path,
    pool: Pool,
    project: Staffed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run the command as from a shell; return its exit code, output and errors."""
    write_record(project_root(tmp_path, PROJECT), record(PROJECT))
    own = {"MODEL_DIR": tmp_path, "DATA_DIR": pool.folder.parents[1], "LABEL_STUDIO_API_KEY": "k"}
    for name, value in own.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)  # no .env
    monkeypatch.setattr(options, "open_project", lambda *_: project)

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["annotators", *arguments])
        with pytest.raises(SystemExit) as end:
            run(annotators.main)
        return int(end.value.code or 0), *capsys.readouterr()

    return run_it


def test_the_report_has_a_row_per_active_annotator_and_none_for_the_data_set(
    command: Callable[..., tuple[int, str, str]],
) -> None:
    code, output, _ = command()
    assert code == 0
    rows = {line.split()[0]: line.split() for line in output.splitlines()[1:3]}
    assert set(rows) == {"Ada", "Bo"}
    assert (rows["Ada"][1:4], rows["Ada"][-3:]) == (["3", "0", "100%"], ["50%", "50%", "4.0"])
    assert (rows["Bo"][1:4], rows["Bo"][-3:]) == (["2", "1", "100%"], ["0%", "50%", "-"])
    assert len(output.splitlines()) == 3


def test_json_and_csv_contain_every_figure(command: Callable[..., tuple[int, str, str]]) -> None:
    as_json = {row["name"]: row for row in json.loads(command("--json")[1])}
    assert as_json["Ada"].keys() == asdict(ADA).keys()
    assert as_json["Ada"]["answers"] == 3
    assert as_json["Bo"]["median_seconds"] is None
    as_csv = {row["name"]: row for row in csv.DictReader(command("--csv")[1].splitlines())}
    for name, row in as_json.items():
        assert as_csv[name] == {key: "" if v is None else str(v) for key, v in row.items()}


def test_before_the_first_annotation_the_report_only_states_this(
    command: Callable[..., tuple[int, str, str]], project: Staffed
) -> None:
    project.answers = {task_id: project.answers[task_id] for task_id in (1, 2)}
    assert command() == (0, "No annotations yet.\n", "")
    assert command("--json")[1] == "[]\n"


def test_a_failure_is_one_sentence(
    command: Callable[..., tuple[int, str, str]],
) -> None:
    code, output, error = command("--project", "8")
    assert (code, output) == (1, "")
    assert error == 'choose a project with --project: 7 ("T")\n'
