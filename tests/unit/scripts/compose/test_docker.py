"""Check the errors that users see if Docker fails, with a stand-in for its command."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.compose.docker import DockerError, docker


def install_docker(folder: Path, message: str, code: int) -> None:
    path = folder / "docker"
    path.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit {code}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    "message",
    [
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
        "permission denied while trying to connect to the docker daemon socket",
        "docker.errors.DockerException: Error while fetching server API version: (111)",
    ],
)
def test_if_docker_is_down_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    install_docker(tmp_path, message, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DockerError) as refused:
        docker("info")
    assert str(refused.value) == (
        "`docker info` failed: cannot reach Docker: start it, and check that you may use it "
        "(group docker)"
    )


def test_any_other_error_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_docker(tmp_path, "no such image", 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DockerError, match="`docker pull redis:99` failed: no such image"):
        docker("pull", "redis:99")


def test_a_missing_docker_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DockerError, match="docker is not installed"):
        docker("info")
