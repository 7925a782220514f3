"""A team uses the compose stack: they join by invitation, label together, restart and move it.

The tests share one stack and run in this order; one of the last removes it.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from backend.images.known_labels import true_labels
from backend.images.pool import open_pool
from scripts.compose.backup import LABEL_STUDIO_FILES as MEDIA
from scripts.compose.docker import compose_command, docker
from scripts.compose.env import MAKERS
from scripts.compose.preflight import IMAGE
from scripts.research.accounts import invite_link, sign_up
from tests.compose.annotator import Annotator
from tests.compose.conftest import OURS, REPORT, SERVICES, SMALL, Team, clone
from tests.compose_rules import RAY_SECRETS, breaches
from tests.integration.people import Person
from tests.patience import wait_for

EMAILS = ("ada@example.org", "grace@example.org")
BATCH = int(SMALL["BATCH_SIZE"])


@pytest.fixture(scope="session")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The true labels of the digits."""
    return true_labels(open_pool("digits", tmp_path_factory.mktemp("digits"), seed=0))


@pytest.fixture(scope="session")
def people(team: Team, truth: dict[str, str]) -> Iterator[list[Annotator]]:
    """Two annotators who joined by the invite link."""
    link = invite_link(team.url, team.env["LABEL_STUDIO_API_KEY"])
    for email in EMAILS:
        assert sign_up(team.url, link, email).status_code == 302
    both = [Annotator(team, email, truth) for email in EMAILS]
    yield both
    for someone in both:
        someone.__exit__()


def label_together(people: list[Annotator], count: int) -> None:
    """Let every annotator label a number of tasks, all at the same time."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(someone.label, count) for someone in people]:
            done.result()


def count_accepted(people: list[Annotator]) -> int:
    """Return how many annotations were accepted so far."""
    return sum(len(someone.accepted) for someone in people)


def check_annotations(team: Team, people: list[Annotator]) -> None:
    """Check that no annotation is lost, no task labeled twice, and no image asked twice."""
    with Person(team) as lead:
        tasks = lead.get("/api/tasks/", project=1, page_size=1000, fields="all")["tasks"]
    by_people = {
        task["id"]: [a["id"] for a in task["annotations"]]
        for task in tasks
        if task["data"]["asked_by"] != "seed" and task["annotations"]
    }
    accepted = {task: [kept] for someone in people for task, kept in someone.accepted.items()}
    assert by_people == accepted
    assert max(Counter(task["data"]["image_id"] for task in tasks).values()) == 1


def wait_for_round(team: Team, number: int) -> dict[str, Any]:
    """Wait until a version of this round is in service and no training run is left."""

    def is_there() -> dict[str, Any] | None:
        status = team.status()
        is_done = status["round"] >= number and status["version"]
        return status if is_done and not status["jobs"] else None

    return wait_for(is_there, f"round {number}", every_s=1)


# After `up -d`


def test_the_rendered_compose_file_keeps_every_rule(team: Team) -> None:
    rendered = yaml.safe_load(team.compose("config"))
    assert list(breaches(rendered)) == []


def test_only_label_studio_and_the_dashboard_are_published_and_only_on_loopback(
    team: Team,
) -> None:
    published = {
        service: ports
        for service in SERVICES
        if (ports := [b for b in team.inspect(service)["NetworkSettings"]["Ports"].values() if b])
    }
    assert published == {
        service: [[{"HostIp": "127.0.0.1", "HostPort": team.env[port]}]]
        for service, port in (
            ("label-studio", "LABEL_STUDIO_PORT"),
            ("dashboard", "DASHBOARD_PORT"),
        )
    }


def test_the_dashboard_needs_its_password_and_has_none_of_the_ml_backends_routes(
    team: Team,
) -> None:
    assert httpx.get(f"{team.dashboard_url}/dashboard").status_code == 401
    page = httpx.get(f"{team.dashboard_url}/dashboard", auth=team.lead)
    assert page.status_code == 200
    assert f"http://localhost:{team.env['LABEL_STUDIO_PORT']}/projects/1/data" in page.text
    backend = ("tightloop", team.env["BACKEND_PASSWORD"])
    for path in ("/predict", "/setup", "/webhook", "/versions"):
        assert httpx.post(f"{team.dashboard_url}{path}", auth=backend, json={}).status_code == 404
    metrics = httpx.get(f"{team.dashboard_url}/metrics", auth=team.lead)
    assert "tightloop_webhook_duration_seconds_count" in metrics.text  # counted by the backend


def test_set_up_prints_the_address_of_label_studio_outside_the_stack(team: Team) -> None:
    printed = team.compose("logs", "--no-color", "setup")
    link = re.search(r"(http\S+)/projects/1/data", printed)
    assert link is not None, printed
    assert link[1] == f"http://localhost:{team.env['LABEL_STUDIO_PORT']}"
    assert httpx.get(f"{link[1]}/user/login/").is_success


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_does_not_run_as_root_and_cannot_become_it(team: Team, service: str) -> None:
    assert team.compose("exec", "-T", service, "id", "-u").strip() != "0"
    host = team.inspect(service)["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0


@pytest.mark.parametrize("service", SERVICES)
def test_the_root_file_system_cannot_be_written(team: Team, service: str) -> None:
    tried = team.run(*compose_command(), "exec", "-T", service, "touch", "/etc/made-here")
    assert tried.returncode != 0
    assert "Read-only file system" in tried.stdout + tried.stderr


def test_no_secret_appears_in_the_image_or_in_a_list_of_processes(team: Team) -> None:
    secrets = [value for name, value in team.env.items() if name in MAKERS and len(value) > 3]
    shown = docker("history", "--no-trunc", IMAGE) + docker("image", "inspect", IMAGE)
    everything = "env; cat $(find /app -type f ! -name '*.pyc')"
    shown += docker("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", everything)
    for service in SERVICES:
        shown += docker("top", team.container(service), "-eo", "pid,args")
    assert shown.count("backend.workers.processes") > len(OURS)
    assert len(secrets) == len(MAKERS) - 1
    assert not [secret for secret in secrets if secret in shown]


def test_redis_needs_its_password_and_never_drops_data_silently(team: Team) -> None:
    def redis(*command: str) -> str:
        return team.compose("exec", "-T", "redis", "redis-cli", *command)

    stranger = team.compose(
        "exec", "-T", "redis", "env", "-u", "REDISCLI_AUTH", "redis-cli", "ping"
    )
    assert "NOAUTH" in stranger
    assert redis("config", "get", "maxmemory-policy").split()[1] == "noeviction"
    assert redis("config", "get", "appendonly").split()[1] == "yes"


@pytest.mark.parametrize("service", ["backend", "clock", "redis", "postgres"])
def test_services_that_need_no_internet_cannot_reach_it(team: Team, service: str) -> None:
    networks = team.inspect(service)["NetworkSettings"]["Networks"]
    assert f"{team.folder.name}_inside" in networks
    assert all(
        network["Internal"] for network in json.loads(docker("network", "inspect", *networks))
    )


def test_starting_again_changes_nothing(team: Team) -> None:
    before = {service: team.container(service) for service in SERVICES}
    team.compose("up", "-d")
    assert {service: team.container(service) for service in SERVICES} == before
    printed = team.compose("logs", "--no-color", "setup")
    assert printed.rstrip().endswith("everything already exists: nothing changed")


def test_our_logs_have_one_json_object_per_line(team: Team) -> None:
    for service in OURS:
        logs = team.run("docker", "logs", team.container(service))
        lines = (logs.stdout + logs.stderr).splitlines()
        assert lines
        assert all(json.loads(line)["level"] for line in lines), logs.stdout + logs.stderr


# Annotators


def test_signing_up_needs_the_invite_link(team: Team) -> None:
    refused = sign_up(team.url, "/user/signup/", "mallory@example.org")
    assert refused.status_code != 302
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        Annotator(team, "mallory@example.org", {})


def test_two_annotators_label_two_rounds_together(team: Team, people: list[Annotator]) -> None:
    number = wait_for_round(team, 1)["round"]
    for _ in range(2):
        label_together(people, BATCH // 2)
        number += 1
        after = wait_for_round(team, number)
    assert after["trained_on_labels"] == int(SMALL["SEED_LABELS"]) + 2 * BATCH
    check_annotations(team, people)


def test_every_service_can_be_restarted_while_annotators_label(
    team: Team, people: list[Annotator]
) -> None:
    before, n_accepted = team.status()["round"], count_accepted(people)
    is_over = threading.Event()
    with ThreadPoolExecutor() as pool:
        # Ten annotations start a training run, so some restarts happen during one.
        working = [pool.submit(someone.label_until, is_over.is_set) for someone in people]
        try:
            for service in SERVICES:
                so_far = count_accepted(people)
                team.compose("restart", "-t", "5", service)
                team.wait_until_healthy(service)
                wait_for(lambda: count_accepted(people) > so_far, f"an annotation after {service}")  # noqa: B023
        finally:
            is_over.set()  # stops the annotators, even after a failure
        for done in working:
            done.result()
    assert count_accepted(people) >= n_accepted + len(SERVICES)
    check_annotations(team, people)
    wait_for_round(team, before + 1)
    rested = wait_for(
        lambda: (s := team.status())["new_annotations"] < BATCH and not s["jobs"] and s,
        "everything trained",
        every_s=1,
    )
    assert rested["annotations"] == int(SMALL["SEED_LABELS"]) + count_accepted(people)


def test_the_services_become_healthy_in_any_starting_order(team: Team) -> None:
    containers = {service: team.container(service) for service in SERVICES}
    team.compose("stop", "-t", "5")
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for service in reversed(SERVICES):  # start our services before those that they need
        docker("start", containers[service])
        time.sleep(2)
    team.wait_until_healthy(*SERVICES)
    logs = [team.run("docker", "logs", "--since", began, containers[s]) for s in OURS]
    assert "Traceback" not in "".join(done.stdout + done.stderr for done in logs)


def test_two_projects_train_at_the_same_time_but_neither_trains_twice_at_once(team: Team) -> None:
    team.compose("run", "--rm", "-T", "-e", "PROJECT_TITLE=Second project", "setup")
    team.compose("up", "-d", "--no-recreate", "--scale", "trainer-cpu=2")
    wait_for(lambda: team.status(2)["workers"]["train"] == 2, "two trainers")
    wait_for(lambda: team.status(2)["version"] and not team.status(2)["jobs"], "its first version")
    rounds = {project: team.status(project)["round"] for project in (1, 2)}
    for _ in range(2):  # the second time, both are already training and must train once more
        for project in (1, 2):
            with Person(team) as lead:
                lead.project_id = project
                lead.start_training()
        time.sleep(4)
    for project, before in rounds.items():
        wait_for(
            lambda: (s := team.status(project))["round"] >= before + 2 and not s["jobs"],  # noqa: B023
            f"two more rounds of project {project}",
            every_s=1,
        )
    first, second = (trainings(team, project) for project in (1, 2))
    assert any(a[0] < b[1] and b[0] < a[1] for a in first for b in second)
    for own in (first, second):
        assert all(before[1] <= after[0] + 1 for before, after in pairwise(own))
    team.compose("up", "-d", "--no-recreate", "--scale", "trainer-cpu=1")


def trainings(team: Team, project: int) -> list[tuple[float, float]]:
    """Return the times at which the training run of each version began and ended, in seconds."""
    command = ("python", "-m", "scripts.models", "--project", str(project), "list", "--json")
    versions = json.loads(team.compose("exec", "-T", "ranker", *command))
    ends = [datetime.fromisoformat(meta["created_at"]).timestamp() for meta in versions]
    made_in = [sum(meta["seconds"].values()) for meta in versions]
    return [(end - seconds, end) for end, seconds in zip(ends, made_in, strict=True)]


# Rebuilding, stopping, backing up and restoring


def test_a_change_of_our_code_rebuilds_only_the_last_layers(team: Team) -> None:
    with (team.folder / "backend" / "rounds.py").open("a") as file:
        file.write("\n# changed\n")

    def layers() -> list[str]:
        return list(json.loads(docker("image", "inspect", IMAGE))[0]["RootFS"]["Layers"])

    before, began = layers(), time.monotonic()
    team.compose("build", "backend")
    REPORT["build after a change of our code"] = f"{time.monotonic() - began:.0f} s"
    after = layers()
    assert after != before
    assert after[:-3] == before[:-3]  # the last three are our code, our scripts and their bytecode


def test_after_down_and_up_the_same_version_is_in_service(
    team: Team, people: list[Annotator]
) -> None:
    before = team.status()
    team.compose("down")
    began = time.monotonic()
    team.compose("up", "-d")
    REPORT["`up -d` of an existing stack"] = f"{time.monotonic() - began:.0f} s"
    after = wait_for_round(team, before["round"])
    assert (after["version"], after["trained_on_labels"]) == (
        before["version"],
        before["trained_on_labels"],
    )
    label_together(people, 2)
    check_annotations(team, people)


def test_a_restored_stack_serves_the_same_version_and_the_same_labels(
    team: Team, people: list[Annotator], place: Path, truth: dict[str, str]
) -> None:
    assert count_accepted(people)
    media = f"{MEDIA}/media/upload"
    team.compose(
        "exec", "-T", "label-studio", "sh", "-c", f"mkdir -p {media}; echo 1 > {media}/kept"
    )
    before, labels = team.status(), all_labels(team)
    team.make("backup")
    [file] = (team.folder / "backups").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    team.compose("down", "-v")
    assert team.left() == []

    moved = clone(place)
    try:
        moved.make("restore", f"FROM={file}")
        assert moved.env == team.env
        moved.compose("up", "-d")
        after = moved.status()
        assert {k: after[k] for k in ("version", "trained_on_labels", "round", "validation")} == {
            k: before[k] for k in ("version", "trained_on_labels", "round", "validation")
        }
        assert all_labels(moved) == labels
        assert (
            moved.compose("exec", "-T", "label-studio", "cat", f"{MEDIA}/media/upload/kept")
            == "1\n"
        )
        printed = moved.compose("logs", "--no-color", "setup")
        assert "nothing changed" in printed
        with Annotator(moved, EMAILS[0], truth) as someone:  # with the same password
            someone.label(1)
        # Restoring again would overwrite the present data.
        refused = moved.run("make", "restore", f"FROM={file}")
        assert "this stack is running" in refused.stderr
        assert all_labels(moved).items() >= labels.items()
        moved.compose("down")
        refused = moved.run("make", "restore", f"FROM={file}")
        assert "already contains labels or models" in refused.stderr
        moved.compose("up", "-d")
        assert all_labels(moved).items() >= labels.items()
    finally:
        moved.run(*compose_command(), "down", "-v")
    assert moved.left() == []


def test_a_restore_that_fails_leaves_an_empty_stack_for_the_next_attempt(
    fresh: Team, tmp_path: Path
) -> None:
    manifest = json.dumps({"label_studio": "1.0"})
    parts = {".env": "", "manifest.json": manifest, "database.dump": "broken"}
    for name, content in parts.items():
        (tmp_path / name).write_text(content)
    for name in ("models.tar", "media.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(tmp_path / "manifest.json", "kept")
    fresh.make("secrets")
    shutil.copy(fresh.folder / ".env", tmp_path / ".env")
    with tarfile.open(fresh.folder / "broken.tar", "w") as tar:
        for name in (*parts, "models.tar", "media.tar"):
            tar.add(tmp_path / name, name)
    refused = fresh.run("make", "restore", "FROM=broken.tar")
    assert "pg_restore" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert fresh.left() == []


def all_labels(team: Team) -> dict[str, list[Any]]:
    """Return the labels in every image's annotations."""
    with Person(team) as lead:
        tasks = lead.get("/api/tasks/", project=1, page_size=1000, fields="all")["tasks"]
    return {
        task["data"]["image_id"]: [a["result"][0]["value"]["choices"] for a in task["annotations"]]
        for task in tasks
        if task["annotations"]
    }


# What set-up and restore refuse


@pytest.fixture
def fresh(place: Path) -> Iterator[Team]:
    """A new clone."""
    lead = clone(place)
    yield lead
    lead.run(*compose_command(), "down", "-v")


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in RAY_SECRETS])
def test_a_missing_secret_is_named_with_the_command_that_creates_it(fresh: Team, name: str) -> None:
    fresh.run("make", "secrets")
    env = fresh.folder / ".env"
    env.write_text(re.sub(rf"^{name}=.*\n", "", env.read_text(), flags=re.MULTILINE))
    refused = fresh.run(*compose_command(), "up", "-d")
    assert refused.returncode != 0
    assert name in refused.stderr
    assert "run `make secrets`" in refused.stderr
    assert fresh.left() == []


def test_a_gpu_profile_without_an_nvidia_runtime_is_one_clear_sentence(fresh: Team) -> None:
    can_give = "nvidia" in docker("info", "--format", "{{json .Runtimes}}")
    checked = fresh.run("make", "secrets", COMPOSE_PROFILES="gpu")
    is_refused = "problem: COMPOSE_PROFILES=gpu, but Docker cannot give a GPU" in checked.stderr
    assert is_refused is not can_give


def test_a_taken_port_is_one_clear_sentence(fresh: Team) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = fresh.run("make", "secrets", LABEL_STUDIO_PORT=port)
    assert f"problem: 127.0.0.1:{port} cannot be used (Address already in use)" in refused.stderr


def test_a_backup_with_other_secrets_is_refused_and_nothing_is_started(
    fresh: Team, tmp_path: Path
) -> None:
    fresh.run("make", "secrets")
    other = fresh.folder / "other.tar"
    for name in ("manifest.json", "database.dump", "models.tar", "media.tar"):
        (tmp_path / name).write_text("{}")
    (tmp_path / ".env").write_text("LABEL_STUDIO_API_KEY=another\n")
    fresh.run("tar", "-cf", str(other), "-C", str(tmp_path), ".env", "manifest.json",
              "database.dump", "models.tar", "media.tar")  # fmt: skip
    refused = fresh.run("make", "restore", f"FROM={other}")
    assert refused.returncode != 0
    assert "the backup differ in LABEL_STUDIO_API_KEY" in refused.stderr
    assert fresh.left() == []


def test_a_file_that_is_no_backup_is_refused(fresh: Team) -> None:
    (fresh.folder / "photos.tar").write_text("no archive")
    refused = fresh.run("make", "restore", "FROM=photos.tar")
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
