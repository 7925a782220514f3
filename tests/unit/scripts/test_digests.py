"""Run `make digests` without Docker, and check what it writes into .env and what it prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts import digests
from scripts.compose import env
from scripts.compose.docker import DockerError

ROOT = Path(__file__).parents[3]
OLD, NEW = "sha256:" + "a" * 64, "sha256:" + "b" * 64
DEFAULTS = {
    "LABEL_STUDIO_IMAGE": "heartexlabs/label-studio:1.23.2",
    "POSTGRES_IMAGE": "postgres:17",
    "REDIS_IMAGE": "redis:7-alpine",
    "PYTHON_IMAGE": "python:3.11-slim-bookworm",
}
HERE = "# ours\nPOOL=digits\n\nREDIS_PASSWORD='a # b'\n"


class Registry:
    """A stand-in for `docker pull` that can find only these tags."""

    def __init__(self, digest: str = OLD) -> None:
        self.tags = dict.fromkeys(DEFAULTS.values(), digest)

    def __call__(self, *arguments: str) -> str:
        if arguments[0] == "version":
            return "20.10"
        assert arguments[0] == "pull"
        if arguments[1] not in self.tags:
            raise DockerError(f"`docker pull {arguments[1]}` failed: no such host")
        return f"7: Pulling\nDigest: {self.tags[arguments[1]]}\nStatus: Image is up to date"


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Provide a clone with some settings, and a working registry."""
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["digests"])
    monkeypatch.setattr(digests, "compose_command", lambda: ("docker", "compose"))
    env.ENV.write_text(HERE)
    found = Registry()
    monkeypatch.setattr(digests, "docker", found)
    return found


def test_every_image_is_pinned_and_no_other_line_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert digests.main() == 0
    text = env.ENV.read_text()
    assert text.startswith(HERE)
    added = dict(line.split("=", 1) for line in text.removeprefix(HERE).splitlines())
    assert added == {name: f"{tag}@{OLD}" for name, tag in DEFAULTS.items()}
    printed = capsys.readouterr().out
    assert f"REDIS_IMAGE: pinned to redis:7-alpine@{OLD}" in printed
    assert "next: docker compose up -d --build" in printed


def test_a_second_run_reports_no_change_and_does_not_touch_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    digests.main()
    before, text = env.ENV.stat(), env.ENV.read_text()
    capsys.readouterr()
    assert digests.main() == 0
    assert env.ENV.stat() == before
    assert env.ENV.read_text() == text
    printed = capsys.readouterr().out
    assert printed.count("already") == len(DEFAULTS)
    assert ".env: nothing to change" in printed


def test_a_tag_that_refers_to_a_new_image_moves_only_its_own_pin(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    digests.main()
    before = env.ENV.read_text()
    registry.tags["postgres:17"] = NEW
    assert digests.main() == 0
    assert env.ENV.read_text() == before.replace(f"postgres:17@{OLD}", f"postgres:17@{NEW}")
    printed = capsys.readouterr().out
    assert f"POSTGRES_IMAGE: moved to postgres:17@{NEW} (was {OLD})" in printed


def test_without_a_registry_nothing_changes_and_a_message_explains_why(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.tags.clear()
    assert digests.main() == 1
    assert env.ENV.read_text() == HERE
    printed = capsys.readouterr()
    assert "REDIS_IMAGE: kept redis:7-alpine: `docker pull redis:7-alpine` failed" in printed.err
    assert "no registry responded: .env is unchanged" in printed.err
    assert not printed.out


def test_an_image_missing_from_the_registry_stays_unpinned_and_the_others_are_pinned(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    del registry.tags["redis:7-alpine"]
    assert digests.main() == 1
    pinned = env.read_env(env.ENV)
    assert "REDIS_IMAGE" not in pinned
    assert pinned["POSTGRES_IMAGE"] == f"postgres:17@{OLD}"
    assert "REDIS_IMAGE: kept redis:7-alpine" in capsys.readouterr().err


def test_a_custom_image_is_pinned_under_its_own_name(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.tags["localhost:5000/redis:6"] = NEW
    env.ENV.write_text("REDIS_IMAGE=localhost:5000/redis:6\n")
    assert digests.main() == 0
    first = env.ENV.read_text().splitlines()[0]
    assert first == f"REDIS_IMAGE=localhost:5000/redis:6@{NEW}"
    assert "docker-compose.yml names redis:7-alpine" in capsys.readouterr().out


@pytest.mark.parametrize("image", ["redis", "localhost:5000/redis", f"redis@{OLD}"])
def test_an_image_without_a_tag_is_left_unchanged(
    image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    env.ENV.write_text(f"REDIS_IMAGE={image}\n")
    assert digests.main() == 1
    assert env.read_env(env.ENV)["REDIS_IMAGE"] == image
    assert f"REDIS_IMAGE: kept {image}: the tag is missing" in capsys.readouterr().err


def test_if_a_variable_has_two_lines_the_effective_one_is_changed() -> None:
    env.ENV.write_text("REDIS_IMAGE=redis:6\nREDIS_IMAGE=redis:7-alpine\n")
    digests.main()
    lines = env.ENV.read_text().splitlines()
    assert lines[:2] == ["REDIS_IMAGE=redis:6", f"REDIS_IMAGE=redis:7-alpine@{OLD}"]


def test_without_docker_nothing_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*_: str) -> str:
        raise DockerError("Docker is not installed")

    monkeypatch.setattr(digests, "docker", absent)
    with pytest.raises(DockerError, match="Docker is not installed"):
        digests.main()
    assert env.ENV.read_text() == HERE
