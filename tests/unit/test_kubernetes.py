"""The Kubernetes manifests keep every rule, each rule can be broken, and they agree with compose.

The RayCluster is checked by its fields, because no package contains its schema: see
tests/kubernetes_rules.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.base.settings import Settings
from scripts.compose.env import MAKERS
from tests.compose_rules import BUCKET_SECRETS, SECRETS_OF
from tests.kubernetes_rules import (
    RAY_CLUSTER,
    RULES,
    Objects,
    container,
    differences,
    environment,
    named,
    open_ways_to_ray,
    pod,
    pods,
)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
# The services of docker-compose.yml that differ in their names; all others have the same name.
SERVICE_OF = {"trainer": "trainer-ray"}
OURS = ("backend", "dashboard", "setup", "trainer", "ranker", "clock")


@pytest.fixture
def objects() -> Objects:
    """All objects in the folder; what a test changes in them stays with the test."""
    files = sorted(FOLDER.glob("*.yaml"))
    return [found for file in files for found in yaml.safe_load_all(file.read_text()) if found]


@pytest.mark.parametrize("rule", RULES)
def test_the_manifests_keep_every_rule(objects: Objects, rule: str) -> None:
    assert len(objects) > 20
    assert list(RULES[rule](objects)) == []


def change(objects: Objects, name: str, path: str, value: Any) -> None:
    """Set a value, at a path like `spec.hostPID`, in a pod, or remove it if the value is None."""
    *folders, last = path.split(".")
    at: Any = pod(objects, name)
    for key in folders:
        at = at[int(key)] if key.isdigit() else at[key]
    at[last] = value
    if value is None:
        del at[last]


@pytest.mark.parametrize(
    ("rule", "name", "path", "value", "breach"),
    [
        ("invalid", "backend", "spec.containers.0.volumeMount", [], "Deployment backend: "),
        ("invalid", "setup", "spec.restartPolicy", 1, "Job setup: "),
        ("invalid", "ray-worker", "spec.containers.0.readynessProbe", {}, "RayCluster ray: "),
        ("unsafe", "redis", "spec.hostNetwork", True, "redis shares"),
        ("unsafe", "clock", "spec.securityContext.runAsNonRoot", None, "clock may run as root"),
        ("unsafe", "clock", "spec.securityContext.seccompProfile", None, "clock may use any"),
        ("unsafe", "backend", "spec.enableServiceLinks", None, "backend takes the addresses"),
        ("unsafe", "ranker", "spec.automountServiceAccountToken", None, "ranker may use Kube"),
        ("unsafe", "clock", "spec.volumes", [{"name": "x", "hostPath": {}}], "clock reaches"),
        (
            "unsafe",
            "ray-head",
            "spec.containers.0.securityContext.privileged",
            True,
            "ray-head may",
        ),
        ("unsafe", "trainer", "spec.containers.0.securityContext.capabilities", {}, "trainer has"),
        (
            "unsafe",
            "postgres",
            "spec.containers.0.securityContext.readOnlyRootFilesystem",
            False,
            "postgres may change",
        ),
        ("unsafe", "ray-worker", "spec.containers.0.resources", {}, "ray-worker may take"),
        ("unsafe", "label-studio", "spec.containers.0.livenessProbe", None, "label-studio has no"),
        ("open", "ray-worker", "metadata.labels", {}, "ray-worker has either"),
        ("open", "trainer", "metadata.labels", {"app": "trainer"}, "others reach trainer"),
        ("open", "clock", "metadata.labels", {"ray": "node"}, "clock has either"),
        ("open", "ray-head", "spec.containers.0.env", [], "ray-head runs code"),
    ],
)
def test_a_broken_rule_is_named_with_its_pod(
    objects: Objects, rule: str, name: str, path: str, value: Any, breach: str
) -> None:
    change(objects, name, path, value)
    assert [found for found in RULES[rule](objects) if found.startswith(breach)]


@pytest.mark.parametrize(
    ("path", "value", "breach"),
    [
        ("rayversion", "2.60.0", "RayCluster.spec has no field rayversion"),
        ("rayVersion", 2.6, "RayCluster.spec.rayVersion is 2.6"),
        ("headGroupSpec", {}, "RayCluster.spec.headGroupSpec lacks template"),
        ("workerGroupSpecs", {}, "RayCluster.spec.workerGroupSpecs is {}"),
    ],
)
def test_a_wrong_field_of_the_ray_cluster_is_named(
    objects: Objects, path: str, value: Any, breach: str
) -> None:
    cluster = named(objects, "RayCluster", "ray")
    cluster["spec"][path] = value
    assert breach in list(differences("RayCluster", cluster, RAY_CLUSTER))


@pytest.mark.parametrize(
    "broken",
    [
        lambda policy: policy["spec"].update(ingress=[{}]),
        lambda policy: policy["spec"]["ingress"][0].update(ports=[{"port": 6379}]),
        lambda policy: policy["spec"]["ingress"][0]["from"].append({"namespaceSelector": {}}),
        lambda policy: policy["spec"]["podSelector"].update(matchLabels={"ray": "nodes"}),
        lambda policy: policy["spec"].update(policyTypes=["Egress"]),
    ],
)
def test_a_hole_in_the_policy_for_ray_is_found(
    objects: Objects, broken: Callable[[dict[str, Any]], None]
) -> None:
    broken(named(objects, "NetworkPolicy", "only-ray-nodes-reach-ray-nodes"))
    assert list(open_ways_to_ray(objects))


def test_pods_are_unreachable_unless_a_policy_names_them(objects: Objects) -> None:
    policy = named(objects, "NetworkPolicy", "nobody-unless-named-below")
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_that_compose_sets_as_well(objects: Objects, name: str) -> None:
    settings = {(field.alias or key).upper() for key, field in Settings.model_fields.items()}
    held = environment(objects, name).keys() - {"REDIS_PASSWORD", "DASHBOARD_REDIS_PASSWORD"}
    in_compose = COMPOSE["services"][SERVICE_OF.get(name, name)]["environment"].keys()
    assert held <= in_compose
    assert held - settings <= BUCKET_SECRETS | {
        "AWS_ACCESS_KEY_ID",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_USAGE_STATS_ENABLED",
    }
    assert named(objects, "ConfigMap", "settings")["data"].keys() <= settings
    assert {"configMapRef": {"name": "settings"}} in container(objects, name)["envFrom"]


@pytest.mark.parametrize("name", ["label-studio", "postgres", "redis", "ray-head"])
def test_third_party_programs_get_the_variables_of_compose(objects: Objects, name: str) -> None:
    in_compose = COMPOSE["services"][name]["environment"]
    held = environment(objects, name)
    assert held.keys() - {"PGDATA"} == in_compose.keys()
    assert {k: v["value"] for k, v in held.items() if v.get("value") and k != "PGDATA"} == {
        k: re.sub(r"\$\{\w+:-(.*)\}", r"\1", v)
        for k, v in in_compose.items()
        if v
        and ":?" not in v
        and v != "${LABEL_STUDIO_HOST:-}"
        and v != "${CSRF_TRUSTED_ORIGINS:-}"
    }


@pytest.mark.parametrize(
    "name", [n for n in SECRETS_OF if not n.startswith("trainer-")] + ["trainer"]
)
def test_a_pod_gets_the_secrets_of_its_service(objects: Objects, name: str) -> None:
    variables = environment(objects, name).values()
    references = [v["valueFrom"]["secretKeyRef"] for v in variables if "valueFrom" in v]
    assert {reference["name"] for reference in references} == {"secrets"}
    required = {r["key"] for r in references if not r.get("optional")}
    assert required == SECRETS_OF[SERVICE_OF.get(name, name)] - BUCKET_SECRETS
    assert required <= MAKERS.keys()


@pytest.mark.parametrize("name", OURS)
def test_redis_has_the_address_that_it_has_in_compose(objects: Objects, name: str) -> None:
    held = COMPOSE["services"][SERVICE_OF.get(name, name)]["environment"]["REDIS_URL"]
    url = re.sub(r"\$\{(\w+):\?[^}]*\}", r"$(\1)", held)
    assert environment(objects, name)["REDIS_URL"]["value"] == url


def test_images_and_commands_are_those_of_compose(objects: Objects) -> None:
    for name, template in pods(objects):
        service = COMPOSE["services"][SERVICE_OF.get(name, name)]
        [held] = template["spec"]["containers"]
        image = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"])
        assert held["image"] == image
        if "command" in held:
            assert held["command"] == [part.replace("$$", "$") for part in service["command"]]


def test_ray_is_the_release_in_its_lock(objects: Objects) -> None:
    spec = named(objects, "RayCluster", "ray")["spec"]
    assert f"ray=={spec['rayVersion']} " in (ROOT / "ray.lock").read_text()


def test_the_head_is_where_the_trainer_looks_for_it(objects: Objects) -> None:
    spec = named(objects, "RayCluster", "ray")["spec"]
    name = spec["headGroupSpec"]["headService"]["metadata"]["name"]
    assert f"--address={name}:6379 " in container(objects, "trainer")["command"][-1]


def test_pods_that_mount_the_models_run_on_one_node(objects: Objects) -> None:
    """SQLite cannot be used over a network."""
    for name, template in pods(objects):
        spec, labels = template["spec"], template["metadata"]["labels"]
        claims = {v.get("persistentVolumeClaim", {}).get("claimName") for v in spec["volumes"]}
        if {"models", "data"} & claims:
            [term] = spec["affinity"]["podAffinity"][
                "requiredDuringSchedulingIgnoredDuringExecution"
            ]
            assert term["labelSelector"] == {"matchLabels": {"disk": "models"}}
            assert labels["disk"] == "models", name


def test_every_volume_claim_exists(objects: Objects) -> None:
    claims = {o["metadata"]["name"] for o in objects if o["kind"] == "PersistentVolumeClaim"}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, template in pods(objects)
        for volume in template["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used == claims


def test_all_objects_are_in_one_namespace(objects: Objects) -> None:
    [namespace] = [o for o in objects if o["kind"] == "Namespace"]
    others = [o["metadata"]["namespace"] for o in objects if o["kind"] != "Namespace"]
    assert set(others) == {namespace["metadata"]["name"]}
