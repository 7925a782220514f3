"""Find anything that would stop `docker compose up` before it starts."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from scripts.compose import env, preflight
from scripts.compose.docker import DockerError

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def _clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh clone on a machine whose Docker has no GPU."""
    for name in (".env.example", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(env, "choose_profile", lambda: "cpu")
    for name in ("COMPOSE_PROFILES", "BIND", "LABEL_STUDIO_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_a_setting_that_compose_ignores_is_noted() -> None:
    [note] = preflight.find_notes({"BACKEND_URL": "http://x", "BATCH_SIZE": "3", "BIND": "0.0.0.0"})
    assert note.startswith(".env sets BACKEND_URL, which only `make up` uses")


def problems(**changes: str) -> list[str]:
    env.write_missing(env.ENV)
    values = {**env.read_env(env.ENV), "DASHBOARD_PORT": str(free_port()), **changes}
    return list(preflight.find_problems(values))


@pytest.fixture
def _docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker on a machine with 1 TB, no NVIDIA runtime, and no images or containers."""
    answers = {"{{json .Runtimes}}": '{"runc": {}}', "{{.DockerRootDir}}": "/"}
    for module in (env, preflight):
        monkeypatch.setattr(module, "docker", lambda *arguments: answers.get(arguments[-1], ""))
    monkeypatch.setattr(preflight, "compose_command", lambda: ("docker", "compose"))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**12))


@pytest.mark.usefixtures("_docker")
def test_a_fresh_clone_has_no_problem() -> None:
    assert problems(LABEL_STUDIO_PORT=str(free_port())) == []


@pytest.mark.usefixtures("_docker")
def test_an_unknown_setting_is_reported_with_the_closest_known_name() -> None:
    port = str(free_port())
    fine = {"COMPOSE_PROJECT_NAME": "birds", "VAR_DIR": "/srv", "http_proxy": "x"}
    [problem] = problems(BATCH_SIZ="3", LABEL_STUDIO_PORT=port, **fine)
    assert "BATCH_SIZ," in problem
    assert "did you mean BATCH_SIZE?" in problem


@pytest.mark.usefixtures("_docker")
@pytest.mark.parametrize("name", ["LABEL_STUDIO_PORT", "DASHBOARD_PORT"])
def test_a_port_in_use_is_reported_with_the_setting_to_change(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        [problem] = problems(**{"LABEL_STUDIO_PORT": str(free_port()), name: str(port)})
    assert problem.startswith(f"127.0.0.1:{port} cannot be used (Address already in use)")
    assert name in problem


@pytest.mark.usefixtures("_docker")
@pytest.mark.parametrize("port", ["http", "99999999"])
def test_an_invalid_port_is_named(port: str) -> None:
    [problem] = problems(LABEL_STUDIO_PORT=port)
    assert f":{port} cannot be used" in problem


@pytest.mark.usefixtures("_docker")
def test_a_gpu_profile_without_an_nvidia_runtime_is_named() -> None:
    [problem] = problems(COMPOSE_PROFILES="gpu", LABEL_STUDIO_PORT=str(free_port()))
    assert problem.startswith("COMPOSE_PROFILES=gpu, but Docker cannot give a GPU to a container")


@pytest.mark.usefixtures("_docker")
@pytest.mark.parametrize("folder", ["/no/such/folder", "."])
def test_a_missing_folder_is_named_before_docker_creates_an_empty_one(folder: str) -> None:
    [problem] = problems(HOST_FOLDER=folder, LABEL_STUDIO_PORT=str(free_port()))
    assert problem.startswith(f"HOST_FOLDER={folder} is not a folder")


@pytest.mark.usefixtures("_docker")
def test_a_full_disk_is_reported_with_the_space_that_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 10**9))
    [problem] = problems(LABEL_STUDIO_PORT=str(free_port()))
    assert problem.startswith("/ has 3 GB free, but 20 GB are needed")


def test_if_docker_is_missing_no_other_problem_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> tuple[str, ...]:
        raise DockerError("Docker is not installed")

    monkeypatch.setattr(preflight, "compose_command", absent)
    assert problems() == ["Docker is not installed"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("_docker")
@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "FSSPEC_S3_ANON", "GOOGLE_APPLICATION_CREDENTIALS"]
)
def test_the_credentials_of_a_bucket_are_no_problem(name: str) -> None:
    assert problems(**{name: "x"}) == problems()
