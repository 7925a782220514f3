"""Check what an intruder in a container could do: which secrets and services are within reach.

The tests use the same stack as test_team.py, before anyone labels.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from scripts.compose.docker import compose_command, docker
from scripts.compose.env import MAKERS
from tests.compose.conftest import SERVICES, Team
from tests.compose_rules import SECRETS_OF
from tests.patience import PATIENCE_S, wait_for

# Commands that change data or reveal more than our own keys.
REFUSED = (
    "SET tightloop:clock 0",
    "DEL tightloop:clock",
    "HSET tightloop:p1:generation forced 9",
    "LPUSH rq:queue:train retrain-p1",
    "SREM rq:workers rq:worker:x",
    "MULTI",
    "EVAL return(1) 0",
    "CONFIG GET *",
    "FLUSHALL",
    "KEYS *",
    "SCAN 0",
    "GET elsewhere",
    "PUBLISH rq:pubsub:x stop",
    "SUBSCRIBE rq:pubsub:x",
    "CLIENT LIST",
    "ACL LIST",
    "SHUTDOWN",
)
ASK_REDIS = """
import json, os, sys
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError
connection = Redis.from_url(os.environ["REDIS_URL"])
assert connection.get("tightloop:clock")
for command in json.load(sys.stdin):
    try:
        connection.execute_command(*command.split())
        print("done:", command)
    except NoPermissionError:
        pass
"""
CONNECT = """
import socket
for host, port in (("redis", 6379), ("backend", 9090), ("label-studio", 8080), ("postgres", 5432),
                   ("1.1.1.1", 443), ("1.1.1.1", 53), ("8.8.8.8", 53)):
    try:
        socket.create_connection((host, port), 3).close()
        print(host)
    except OSError:
        pass
"""


def container_of(team: Team, service: str) -> dict[str, Any]:
    """Return what `docker inspect` reports on a service's container, even if it has exited."""
    labels = {"project": team.folder.name, "service": service}
    filters = [f"--filter=label=com.docker.compose.{k}={v}" for k, v in labels.items()]
    [found] = json.loads(docker("inspect", docker("ps", "-aq", *filters)))
    return dict(found)


@pytest.mark.parametrize("service", [*SERVICES, "setup"])
def test_a_container_has_only_the_secrets_that_it_needs(team: Team, service: str) -> None:
    values = {name: team.env[name] for name in MAKERS if name != "COMPOSE_PROFILES"}
    held = json.dumps(container_of(team, service)["Config"])
    assert {name for name, value in values.items() if value in held} == SECRETS_OF[service]


def run_in_dashboard(team: Team, code: str, stdin: str = "") -> str:
    """Run Python code in the dashboard's container and return its output."""
    container = team.container("dashboard")
    done = team.run("sh", "-c", 'printf %s "$IN" | docker exec -i "$ID" python -c "$CODE"',
                    IN=stdin, ID=container, CODE=code)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_dashboards_container_cannot_change_redis_or_the_models(team: Team) -> None:
    team.wait_until_healthy("clock")  # from then on, the time of its last tick can be read
    assert run_in_dashboard(team, ASK_REDIS, json.dumps(REFUSED)) == ""
    tried = team.run(*compose_command(), "exec", "-T", "dashboard", "touch", "/models/made-here")
    assert "Read-only file system" in tried.stdout + tried.stderr


def test_the_dashboards_container_reaches_only_the_backend_and_redis(team: Team) -> None:
    assert run_in_dashboard(team, CONNECT).split() == ["redis", "backend"]


def press(team: Team, button: str, **form: str) -> httpx.Response:
    """Press a button of the published dashboard."""
    return httpx.post(
        f"{team.dashboard_url}/dashboard/{button}",
        data={"project": "1", **form},
        auth=team.lead,
        timeout=PATIENCE_S,
    )


def test_the_published_buttons_train_and_roll_back_through_the_backend(team: Team) -> None:
    wait_for(lambda: team.status()["version"], "the first version", every_s=1)
    assert press(team, "train").status_code == 303
    wait_for(lambda: (s := team.status())["round"] == 2 and not s["jobs"], "round 2", every_s=1)
    newest = team.status()["version"]
    assert press(team, "promote", version="r0001").status_code == 303
    assert team.status()["version"] == "r0001"
    assert press(team, "promote", version=newest).status_code == 303
    assert team.status()["version"] == newest
    refused = press(team, "promote", version="r0099")
    assert refused.status_code == 404
    assert "known versions: r0001" in refused.text
    assert team.env["CONTROL_SECRET"] not in refused.text + str(refused.headers)


def test_the_backend_refuses_a_button_without_the_dashboards_secret(team: Team) -> None:
    ask = (
        "import os, httpx; print(httpx.post(os.environ['BACKEND_URL'] + '/controls/train', "
        "data={'project': 1}, auth=('tightloop', os.environ['DASHBOARD_PASSWORD'])).status_code)"
    )
    assert run_in_dashboard(team, ask).split() == ["401"]
    assert "retrain" not in {job["job"] for job in team.status()["jobs"]}
