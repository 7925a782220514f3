"""`make secrets`: all that docker compose needs, made once, and what is in its way."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import env_file as secrets
from scripts.docker import DockerError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone in which nothing was done yet, on a machine whose Docker has no GPU."""
    for name in (".env.example", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(secrets, "choose_profile", lambda: "cpu")
    for name in ("COMPOSE_PROFILES", "BIND", "LABEL_STUDIO_PORT"):
        monkeypatch.delenv(name, raising=False)


def made() -> dict[str, str]:
    secrets.write_missing(secrets.ENV)
    return secrets.read_env(secrets.ENV)


def test_every_secret_that_compose_asks_for_is_made() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert set(made()) == asked
    assert all(made().values())


def test_no_two_secrets_are_alike_and_label_studio_takes_its_token() -> None:
    env = made()
    assert len(set(env.values())) == len(env)
    assert re.fullmatch(r"[0-9a-f]{40}", env["LABEL_STUDIO_API_KEY"])
    assert min(len(value) for name, value in env.items() if name != "COMPOSE_PROFILES") >= 16


def test_a_second_run_changes_nothing() -> None:
    before = made()
    assert secrets.write_missing(secrets.ENV) == []
    assert secrets.read_env(secrets.ENV) == before


def test_what_people_wrote_stays_where_it_was_and_as_it_was() -> None:
    secrets.ENV.write_text(
        "# ours\nPOOL=/host/birds\nWEBHOOK_SECRET='kept # this'\nREDIS_PASSWORD=\n"
    )
    secrets.write_missing(secrets.ENV)
    lines = secrets.ENV.read_text().splitlines()
    assert lines[:3] == ["# ours", "POOL=/host/birds", "WEBHOOK_SECRET='kept # this'"]
    assert re.fullmatch(r"REDIS_PASSWORD=[0-9a-f]{40}", lines[3])


def test_an_env_of_the_former_release_gets_the_new_secrets_and_keeps_every_line() -> None:
    former = (
        "BIND=0.0.0.0\nPOOL=/host/birds\nLABEL_STUDIO_PASSWORD=a-b_c\nLABEL_STUDIO_API_KEY=0a\n"
        "POSTGRES_PASSWORD=1b\nREDIS_PASSWORD=2c\nBACKEND_PASSWORD=3d\nWEBHOOK_SECRET=4e\n"
        "DASHBOARD_PASSWORD=5-f\nCOMPOSE_PROFILES=gpu\n"
    )
    secrets.ENV.write_text(former)
    assert secrets.write_missing(secrets.ENV) == ["DASHBOARD_REDIS_PASSWORD", "CONTROL_SECRET"]
    after = secrets.ENV.read_text()
    assert after.startswith(former)
    added = after.removeprefix(former)
    assert re.fullmatch(
        r"DASHBOARD_REDIS_PASSWORD=[0-9a-f]{40}\nCONTROL_SECRET=[0-9a-f]{40}\n", added
    )


def test_nobody_else_can_read_the_file_even_if_they_could_before() -> None:
    secrets.ENV.write_text("POOL=digits\n")
    secrets.ENV.chmod(0o644)
    secrets.write_missing(secrets.ENV)
    assert secrets.ENV.stat().st_mode & 0o777 == 0o600


CHOOSE_PROFILE = secrets.choose_profile


@pytest.mark.parametrize(
    ("has_nvidia_smi", "runtimes", "chosen"),
    [
        (True, '{"nvidia": {}, "runc": {}}', "gpu"),
        (True, '{"runc": {}}', "cpu"),
        (False, '{"nvidia": {}}', "cpu"),
        (False, None, "cpu"),
        (True, None, ""),  # Docker does not say: the next run may know
    ],
)
def test_the_profile_is_gpu_where_docker_can_give_one(
    monkeypatch: pytest.MonkeyPatch, has_nvidia_smi: bool, runtimes: str | None, chosen: str
) -> None:
    def which(name: str) -> str | None:
        return name if name == "nvidia-smi" and has_nvidia_smi else None

    def docker(*_: str) -> str:
        if runtimes is None:
            raise DockerError("Docker does not answer")
        return runtimes

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(secrets, "docker", docker)
    assert CHOOSE_PROFILE() == chosen


def test_a_profile_that_is_not_known_yet_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "choose_profile", lambda: "")
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
    secrets.ENV.write_text(f"{line}\n")
    assert secrets.read_env(secrets.ENV) == {"A": value}


def test_a_setting_that_compose_does_not_take_is_noted() -> None:
    [note] = secrets.find_notes({"BACKEND_URL": "http://x", "BATCH_SIZE": "3", "BIND": "0.0.0.0"})
    assert note.startswith(".env sets BACKEND_URL, which counts for `make up` alone")


def problems(**changes: str) -> list[str]:
    return list(secrets.find_problems({**made(), "DASHBOARD_PORT": str(free_port()), **changes}))


@pytest.fixture
def _docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's answers on a machine with 1 TB, no NVIDIA runtime, and nothing of ours."""
    answers = {"{{json .Runtimes}}": '{"runc": {}}', "{{.DockerRootDir}}": "/"}
    monkeypatch.setattr(secrets, "docker", lambda *arguments: answers.get(arguments[-1], ""))
    monkeypatch.setattr(secrets, "compose_command", lambda: ("docker", "compose"))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**12))


@pytest.mark.usefixtures("_docker")
def test_nothing_is_in_the_way_of_a_fresh_clone() -> None:
    assert problems(LABEL_STUDIO_PORT=str(free_port())) == []


@pytest.mark.usefixtures("_docker")
def test_a_name_that_no_version_knows_is_listed_with_what_may_be_meant() -> None:
    port = str(free_port())
    fine = {"COMPOSE_PROJECT_NAME": "birds", "VAR_DIR": "/srv", "http_proxy": "x"}
    [problem] = problems(BATCH_SIZ="3", LABEL_STUDIO_PORT=port, **fine)
    assert "BATCH_SIZ," in problem
    assert "perhaps BATCH_SIZE is meant" in problem


@pytest.mark.usefixtures("_docker")
@pytest.mark.parametrize("name", ["LABEL_STUDIO_PORT", "DASHBOARD_PORT"])
def test_a_taken_port_is_named_with_what_to_set(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        [problem] = problems(**{"LABEL_STUDIO_PORT": str(free_port()), name: str(port)})
    assert problem.startswith(f"127.0.0.1:{port} cannot be used (Address already in use)")
    assert name in problem


@pytest.mark.usefixtures("_docker")
@pytest.mark.parametrize("port", ["http", "99999999"])
def test_a_port_that_is_none_is_named(port: str) -> None:
    [problem] = problems(LABEL_STUDIO_PORT=port)
    assert f":{port} cannot be used" in problem


@pytest.mark.usefixtures("_docker")
def test_a_gpu_profile_without_an_nvidia_runtime_is_named() -> None:
    [problem] = problems(COMPOSE_PROFILES="gpu", LABEL_STUDIO_PORT=str(free_port()))
    assert problem.startswith("COMPOSE_PROFILES=gpu, and Docker cannot give a GPU to a container")


@pytest.mark.usefixtures("_docker")
@pytest.mark.parametrize("folder", ["/no/such/folder", "."])
def test_a_folder_that_is_not_there_is_named_before_docker_makes_an_empty_one(folder: str) -> None:
    [problem] = problems(HOST_FOLDER=folder, LABEL_STUDIO_PORT=str(free_port()))
    assert problem.startswith(f"HOST_FOLDER={folder} is no folder")


@pytest.mark.usefixtures("_docker")
def test_a_full_disk_is_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * 10**9))
    [problem] = problems(LABEL_STUDIO_PORT=str(free_port()))
    assert problem.startswith("/ has 3 GB left, and 20 GB are needed")


def test_a_machine_without_docker_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> tuple[str, ...]:
        raise DockerError("Docker is not installed here")

    monkeypatch.setattr(secrets, "compose_command", absent)
    assert problems() == ["Docker is not installed here"]


def test_the_command_says_what_it_made_and_never_a_value() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.env_file"],
        env={"PATH": "/nowhere", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.startswith(".env: made LABEL_STUDIO_PASSWORD, ")
    assert "in the way: Docker is not installed here" in done.stderr
    values = secrets.read_env(secrets.ENV).values()
    assert not [v for v in values if len(v) > 3 and v in done.stdout + done.stderr]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
