"""Check manifests against Kubernetes' schemas and our security rules, and report every violation.

Kubernetes' own kinds are checked against its strict schemas, which the package kubernetes-validate
contains. We found no package with the schema (CRD) of KubeRay's RayCluster. Therefore, its pod
templates are checked against Kubernetes' schema of a pod template, and its other fields against
RAY_CLUSTER, which lists those that we use, with their types, as in the CRD of KubeRay 1.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kubernetes_validate import ValidationError, validate

KUBERNETES = "1.34"
WORKLOADS = ("Deployment", "Job")
RAY_CLUSTER: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "namespace": str},
    "spec": {
        "rayVersion": str,
        "headGroupSpec": {
            "headService": {"metadata": {"name": str}},
            "rayStartParams": dict,
            "template": dict,
        },
        "workerGroupSpecs": [
            {
                "groupName": str,
                "replicas": int,
                "minReplicas": int,
                "maxReplicas": int,
                "rayStartParams": dict,
                "template": dict,
            }
        ],
    },
}

Objects = list[dict[str, Any]]


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    [found] = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def pods(objects: Objects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each pod template with the name of its workload."""
    for found in objects:
        if found["kind"] in WORKLOADS:
            yield found["metadata"]["name"], found["spec"]["template"]
        if found["kind"] == "RayCluster":
            yield "ray-head", found["spec"]["headGroupSpec"]["template"]
            for group in found["spec"]["workerGroupSpecs"]:
                yield "ray-worker", group["template"]


def pod(objects: Objects, name: str) -> dict[str, Any]:
    return dict(pods(objects))[name]


def container(objects: Objects, name: str) -> dict[str, Any]:
    [only] = pod(objects, name)["spec"]["containers"]
    return dict(only)


def environment(objects: Objects, name: str) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in container(objects, name)["env"]}


def invalid(objects: Objects) -> Iterator[str]:
    """Yield a sentence for each object that Kubernetes or KubeRay would not understand."""
    for found in objects:
        if found["kind"] == "RayCluster":
            yield from differences("RayCluster", found, RAY_CLUSTER)
            checked: Objects = [
                {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
                for _, template in pods([found])
            ]
        else:
            checked = [found]
        for one in checked:
            try:
                validate(one, KUBERNETES, strict=True)
            except ValidationError as error:
                yield f"{found['kind']} {found['metadata']['name']}: {error.message}"


def differences(path: str, value: Any, shape: Any) -> Iterator[str]:
    """Yield a sentence for each field that is not in a shape like RAY_CLUSTER."""
    if isinstance(shape, list) and isinstance(value, list):
        for item in value:
            yield from differences(path, item, shape[0])
    elif isinstance(shape, dict) and isinstance(value, dict):
        for key, inner in value.items():
            if key not in shape:
                yield f"{path} has no field {key}"
            else:
                yield from differences(f"{path}.{key}", inner, shape[key])
        yield from (f"{path} lacks {key}" for key in shape.keys() - value.keys())
    elif not isinstance(shape, type) or not isinstance(value, shape):
        yield f"{path} is {value!r}"


def unsafe(objects: Objects) -> Iterator[str]:
    """Yield a sentence for each pod that may do more than it needs."""
    for name, template in pods(objects):
        spec = template["spec"]
        if spec.get("securityContext", {}).get("runAsNonRoot") is not True:
            yield f"{name} may run as root"
        if spec.get("securityContext", {}).get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name} may use any system call"
        if {"hostNetwork", "hostPID", "hostIPC"} & spec.keys():
            yield f"{name} shares the node's namespaces"
        if any("hostPath" in volume for volume in spec["volumes"]):
            yield f"{name} reaches the node's files"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name} may use Kubernetes' API"
        if spec.get("enableServiceLinks") is not False:
            yield f"{name} takes the addresses of services for settings"
        for held in [*spec["containers"], *spec.get("initContainers", [])]:
            context = held.get("securityContext", {})
            if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
                yield f"{name} may become privileged"
            if context.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name} has capabilities"
            if context.get("readOnlyRootFilesystem") is not True:
                yield f"{name} may change its image's files"
            if not held["resources"].get("limits", {}).get("memory"):
                yield f"{name} may take all memory"
            if name != "setup" and "livenessProbe" not in held:
                yield f"{name} has no probe"


def open_ways_to_ray(objects: Objects) -> Iterator[str]:
    """Yield a sentence for each way on which others reach the ports of Ray's nodes."""
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    nodes = {name: template["metadata"]["labels"] for name, template in pods(objects)}
    for name in ("ray-head", "ray-worker", "trainer"):
        found = [p for p in policies if selects(p["spec"]["podSelector"], nodes[name])]
        ingress = [p for p in found if "Ingress" in p["spec"]["policyTypes"]]
        if not ingress:
            yield f"everybody reaches {name}"
        rules = [rule for p in ingress for rule in p["spec"].get("ingress", [])]
        if rules != [{"from": [{"podSelector": {"matchLabels": {"ray": "node"}}}]}]:
            yield f"others reach {name}, or some of its ports are closed to Ray"
    for name, labels in nodes.items():
        if ("RAY_AUTH_TOKEN" in environment(objects, name)) != (labels.get("ray") == "node"):
            yield f"{name} has either the way to Ray or its token, and needs both or none"
        token = environment(objects, name).get("RAY_AUTH_MODE", {}).get("value")
        if labels.get("ray") == "node" and token != "token":
            yield f"{name} runs code for anyone who reaches Ray's ports"


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    same = selector.get("matchLabels", {}).items() <= labels.items()
    return same and all(
        labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])
    )


RULES: dict[str, Callable[[Objects], Iterator[str]]] = {
    "invalid": invalid,
    "unsafe": unsafe,
    "open": open_ways_to_ray,
}
