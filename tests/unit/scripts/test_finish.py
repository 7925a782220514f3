"""Begin, follow and cancel a try from the command line, with an oracle instead of Label Studio."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from pydantic import SecretStr

from backend.base.errors import FinishError
from backend.queue.training_queue import TrainingQueue
from backend.rounds.loop import Loop
from backend.store.project_record import write_record
from scripts import finish
from scripts.research.oracle import OracleProject
from tests.conftest import RedisServer
from tests.unit.rounds.conftest import loop, pool, project, seed, train  # noqa: F401
from tests.unit.rounds.test_finish import agree, look, make_perfect
from tests.unit.store.test_registry import record

Command = Callable[..., list[str]]


@pytest.fixture
def trained(loop: Loop, project: OracleProject, redis_server: RedisServer) -> Loop:  # noqa: F811
    """Return a loop with a first version that is right about every image."""
    settings = loop.settings.model_copy(
        update={"model_dir": loop.root.parent, "redis_url": SecretStr(redis_server.url)}
    )
    found = replace(loop, settings=settings)
    write_record(found.root, record(1).model_copy(update={"classes": loop.pool.classes}))
    seed(found, project)
    train(found)
    make_perfect(found)
    return found


@pytest.fixture
def command(
    trained: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command; return the printed lines."""
    monkeypatch.setattr(finish, "open_chosen", lambda *_, **__: (trained.project, trained))
    monkeypatch.setattr(finish, "load_settings", lambda: trained.settings)

    def run(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["finish", *arguments])
        assert finish.main() == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_without_options_it_prints_what_the_model_could_label_and_changes_nothing(
    command: Command, trained: Loop
) -> None:
    first, *shares, last = command()
    assert first.startswith("r0001 could label these of the 200 images")
    assert [line.split(":")[0].strip() for line in shares] == [
        "at most    2 % wrong", "at most    5 % wrong", "at most   10 % wrong",
    ]  # fmt: skip
    assert shares[0].endswith("none yet")
    assert "images, after people have labeled" in shares[2]
    assert last.startswith("To begin, add --max-error")
    assert trained.finish_store.tries() == []


def test_yes_begins_and_the_next_runs_show_how_far_it_is(
    command: Command,
    trained: Loop,
    project: OracleProject,  # noqa: F811
) -> None:
    *_, begun = command("--max-error", "0.1", "--yes")
    [asking] = trained.finish_store.tries()
    assert f"People are asked to label {asking.n_sample} images" in begun
    looks = TrainingQueue(trained.settings.redis_url.get_secret_value()).hints(1).looks
    assert looks == 1
    assert command() == [
        f"Acceptance sample: 0 of {asking.n_sample} labeled, 0 errors "
        f"({asking.allowed_errors} allowed)",
        f"If it passes, the model labels {asking.n_left} images (at most 10 % wrong, with 95 % "
        "confidence)",
    ]
    while trained.finish_store.asking():
        look(trained)
        agree(trained, project)
    first, *_ = command()
    assert first.startswith(f"{asking.n_left} of ")
    assert "can be labeled by the model (at most 10 % wrong, with 95 % confidence)" in first


@pytest.mark.parametrize(("answer", "n_tries"), [("y", 1), ("Yes", 1), ("", 0), ("no", 0)])
def test_a_person_at_a_terminal_is_asked_first(
    answer: str, n_tries: int, command: Command, trained: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def read(text: str) -> str:
        asked.append(text)
        return answer

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    command("--max-error", "0.1")
    [text] = asked
    assert text.startswith("Have people label ")
    assert len(trained.finish_store.tries()) == n_tries


@pytest.mark.parametrize(("answer", "state"), [("y", "canceled"), ("", "passed")])
def test_giving_up_a_promise_is_asked_first(
    answer: str,
    state: str,
    command: Command,
    trained: Loop,
    project: OracleProject,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command("--max-error", "0.1", "--yes")
    while trained.finish_store.asking():
        look(trained)
        agree(trained, project)
    [passed] = trained.finish_store.tries()
    asked = []

    def read(text: str) -> str:
        asked.append(text)
        return answer

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    command("--cancel")
    assert asked == [
        f"Give up the promise and the model's labels of {passed.n_left} images? [y/N] "
    ]
    assert [each.state for each in trained.finish_store.tries()] == [state]


def test_a_sample_that_grew_while_the_person_decided_is_not_begun(
    command: Command, trained: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spend_a_try(_: str) -> str:
        command("--max-error", "0.1", "--yes")
        command("--cancel", "--yes")
        monkeypatch.setattr(sys, "argv", ["finish", "--max-error", "0.1"])
        return "y"

    monkeypatch.setattr("builtins.input", spend_a_try)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(FinishError, match=r"have to label \d+ images instead of \d+"):
        command("--max-error", "0.1")
    assert [each.state for each in trained.finish_store.tries()] == ["canceled"]


def test_without_a_terminal_yes_is_needed(command: Command, trained: Loop) -> None:
    with pytest.raises(FinishError, match="add --yes"):
        command("--max-error", "0.1")
    assert trained.finish_store.tries() == []


def test_a_promise_that_nothing_reaches_is_refused_with_the_smallest_possible_one(
    command: Command,
) -> None:
    with pytest.raises(FinishError, match=r"at most 1 % wrong: use --max-error 0\.\d\d or more"):
        command("--max-error", "0.01", "--yes")


def test_a_second_try_is_refused_while_a_sample_is_labeled(command: Command, trained: Loop) -> None:
    command("--max-error", "0.1", "--yes")
    with pytest.raises(FinishError, match=r"no other try can begin now: .* with --cancel"):
        command("--max-error", "0.05", "--yes")
    assert len(trained.finish_store.tries()) == 1


def test_cancel_gives_the_images_back(command: Command, trained: Loop) -> None:
    command("--max-error", "0.1", "--yes")
    [line] = command("--cancel", "--yes")
    assert line.startswith("The images of this try can be queried again.")
    assert trained.finish_store.current() is None
    with pytest.raises(FinishError, match="nothing to cancel"):
        command("--cancel", "--yes")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "no finite sample proves"),
        ("1", "not between 0 and 1"),
        ("-0.1", "not between 0 and 1"),
        ("nan", "not between 0 and 1"),
        ("2%", "not a number"),
    ],
)
def test_a_share_that_makes_no_sense_is_a_wrong_command_line(
    text: str, reason: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(f"--max-error={text}")
    assert reason in capsys.readouterr().err


def test_cancel_is_not_combined_with_a_new_try(command: Command) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("--cancel", "--max-error", "0.1")
