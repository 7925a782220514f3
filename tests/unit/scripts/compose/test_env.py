"""Create the secrets in a compose stack's .env once, and keep all other lines unchanged."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from scripts.compose import env
from scripts.compose.docker import DockerError

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def _clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh clone on a machine whose Docker has no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(env, "choose_profile", lambda: "cpu")


def made() -> dict[str, str]:
    env.write_missing(env.ENV)
    return env.read_env(env.ENV)


def test_every_secret_that_compose_asks_for_is_made() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert set(made()) == asked
    assert all(made().values())


def test_no_two_secrets_are_equal_and_label_studio_accepts_its_token() -> None:
    values = made()
    assert len(set(values.values())) == len(values)
    assert re.fullmatch(r"[0-9a-f]{40}", values["LABEL_STUDIO_API_KEY"])
    assert min(len(value) for name, value in values.items() if name != "COMPOSE_PROFILES") >= 16


def test_a_second_run_changes_nothing() -> None:
    before = made()
    assert env.write_missing(env.ENV) == []
    assert env.read_env(env.ENV) == before


def test_lines_that_people_wrote_are_not_changed_or_moved() -> None:
    env.ENV.write_text("# ours\nPOOL=/host/birds\nWEBHOOK_SECRET='kept # this'\nREDIS_PASSWORD=\n")
    env.write_missing(env.ENV)
    lines = env.ENV.read_text().splitlines()
    assert lines[:3] == ["# ours", "POOL=/host/birds", "WEBHOOK_SECRET='kept # this'"]
    assert re.fullmatch(r"REDIS_PASSWORD=[0-9a-f]{40}", lines[3])


def test_an_env_file_of_the_previous_release_gets_the_new_secrets_and_keeps_every_line() -> None:
    former = (
        "BIND=0.0.0.0\nPOOL=/host/birds\nLABEL_STUDIO_PASSWORD=a-b_c\nLABEL_STUDIO_API_KEY=0a\n"
        "POSTGRES_PASSWORD=1b\nREDIS_PASSWORD=2c\nBACKEND_PASSWORD=3d\nWEBHOOK_SECRET=4e\n"
        "DASHBOARD_PASSWORD=5-f\nCOMPOSE_PROFILES=gpu\n"
    )
    env.ENV.write_text(former)
    assert env.write_missing(env.ENV) == [
        "DASHBOARD_REDIS_PASSWORD",
        "CONTROL_SECRET",
        "RAY_AUTH_TOKEN",
    ]
    after = env.ENV.read_text()
    assert after.startswith(former)
    added = after.removeprefix(former)
    assert re.fullmatch(
        r"DASHBOARD_REDIS_PASSWORD=[0-9a-f]{40}\nCONTROL_SECRET=[0-9a-f]{40}\n"
        r"RAY_AUTH_TOKEN=[0-9a-f]{64}\n",
        added,
    )


def test_only_the_owner_can_read_the_file_even_if_others_could_before() -> None:
    env.ENV.write_text("POOL=digits\n")
    env.ENV.chmod(0o644)
    env.write_missing(env.ENV)
    assert env.ENV.stat().st_mode & 0o777 == 0o600


CHOOSE_PROFILE = env.choose_profile


@pytest.mark.parametrize(
    ("has_nvidia_smi", "runtimes", "chosen"),
    [
        (True, '{"nvidia": {}, "runc": {}}', "gpu"),
        (True, '{"runc": {}}', "cpu"),
        (False, '{"nvidia": {}}', "cpu"),
        (False, None, "cpu"),
        (True, None, ""),  # Docker is down; the next run may find out
    ],
)
def test_the_profile_is_gpu_if_docker_can_give_one(
    monkeypatch: pytest.MonkeyPatch, has_nvidia_smi: bool, runtimes: str | None, chosen: str
) -> None:
    def which(name: str) -> str | None:
        return name if name == "nvidia-smi" and has_nvidia_smi else None

    def docker(*_: str) -> str:
        if runtimes is None:
            raise DockerError("Docker does not answer")
        return runtimes

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(env, "docker", docker)
    assert CHOOSE_PROFILE() == chosen


def test_a_profile_that_is_not_known_yet_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "choose_profile", lambda: "")
    assert "COMPOSE_PROFILES" not in made()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A = b ", "b"),
        ("export A=b", "b"),
        ("A=b # ours", "b"),
        ("A=b#c", "b#c"),
        ("A='b # c' # d", "b # c"),
        ('A="b # c"', "b # c"),
        ("A= # to do", ""),
        ("A=", ""),
    ],
)
def test_a_line_is_read_as_compose_reads_it(line: str, value: str) -> None:
    env.ENV.write_text(f"{line}\n")
    assert env.read_env(env.ENV) == {"A": value}
