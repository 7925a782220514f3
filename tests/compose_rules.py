"""Check a compose file against our security rules, and report every violation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

PUBLISHED = ("label-studio", "dashboard")
# Without `user:`, a container runs as its image's user. For these images, that is not root.
NOT_ROOT = re.compile(r"tightloop|heartexlabs/label-studio")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|REDISCLI_AUTH|REDIS_URL")
ONE_SHOT = ("setup",)
WORKER_SECRETS = frozenset({"LABEL_STUDIO_API_KEY", "REDIS_PASSWORD"})
# Optional: only needed for images in a bucket.
BUCKET_SECRETS = frozenset({"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "FSSPEC_GS_TOKEN"})
SOURCE_SECRETS = WORKER_SECRETS | BUCKET_SECRETS  # for services that read the pool's images
# Required only by Ray: its services end with a message if the token is missing.
RAY_SECRETS = frozenset({"RAY_AUTH_TOKEN"})
RAY_SERVICES = ("ray-head", "ray-worker", "trainer-ray")
# The secrets of .env that each service needs; it must not get any other.
SECRETS_OF = {
    "label-studio": frozenset(
        {"LABEL_STUDIO_PASSWORD", "LABEL_STUDIO_API_KEY", "POSTGRES_PASSWORD"}
    ),
    "postgres": frozenset({"POSTGRES_PASSWORD"}),
    "redis": frozenset({"REDIS_PASSWORD", "DASHBOARD_REDIS_PASSWORD"}),
    "backend": WORKER_SECRETS
    | {"BACKEND_PASSWORD", "WEBHOOK_SECRET", "DASHBOARD_PASSWORD", "CONTROL_SECRET"},
    "dashboard": frozenset({"DASHBOARD_REDIS_PASSWORD", "DASHBOARD_PASSWORD", "CONTROL_SECRET"}),
    "setup": SOURCE_SECRETS | {"BACKEND_PASSWORD", "WEBHOOK_SECRET"},
    "trainer-cpu": SOURCE_SECRETS,
    "trainer-gpu": SOURCE_SECRETS,
    "trainer-ray": SOURCE_SECRETS | RAY_SECRETS,
    "ray-head": RAY_SECRETS,
    "ray-worker": BUCKET_SECRETS | RAY_SECRETS,
    "ranker": SOURCE_SECRETS,
    "clock": WORKER_SECRETS | {"BACKEND_PASSWORD", "WEBHOOK_SECRET"},
}


def breaches(rendered: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each rule that a file (or `docker compose config`) breaks."""
    for name, service in rendered["services"].items():
        # The image that runs if .env names none.
        image = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(service["image"]))
        if service.get("ports") and name not in PUBLISHED:
            yield f"{name} publishes a port"
        if any(map(_is_on_every_network, service.get("ports") or ())):
            yield f"{name} is published to every network"
        if name not in ONE_SHOT and not _has_healthcheck(service):
            yield f"{name} has no health check"
        if ":" not in image or image.endswith(":latest"):
            yield f"{name} runs {image}, which may be a different image tomorrow"
        user = str(service.get("user", ""))
        if user in ("root", "0") or not (user or NOT_ROOT.match(image)):
            yield f"{name} runs as root"
        if not service.get("mem_limit"):
            yield f"{name} may take all memory"
        if not 0 < int(service.get("pids_limit") or 0) <= 4096:
            yield f"{name} may start any number of processes"
        runs_ray = name in RAY_SERVICES or "tightloop-ray" in image
        if runs_ray and (service.get("environment") or {}).get("RAY_AUTH_MODE") != "token":
            yield f"{name} runs code for anyone who reaches Ray's ports"
        if not service.get("logging", {}).get("options", {}).get("max-size"):
            yield f"{name} may fill the disk with its log"


def default_secrets(raw: Mapping[str, Any]) -> Iterator[str]:
    """Return the secrets in the file that do not require a value with `${NAME:?…}`."""
    for name, service in raw["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            is_secret = SECRET.search(variable) and value not in ("", "true", "false")
            if variable in BUCKET_SECRETS | RAY_SECRETS and value is None:  # passed on if it is set
                continue
            if is_secret and not re.search(r"\$\{\w+:\?", str(value)):
                yield f"{name} has a default for {variable}"


def misplaced_secrets(raw: Mapping[str, Any]) -> Iterator[str]:
    """Return the secrets of .env that a service in the file gets but does not need."""
    for name, service in raw["services"].items():
        environment = service.get("environment") or {}
        passed_on = {variable for variable, value in environment.items() if value is None}
        named = set(re.findall(r"(?<!\$)\$\{?([A-Za-z_]\w*)", json.dumps(service))) | passed_on
        for secret in sorted(filter(SECRET.search, named - SECRETS_OF.get(name, frozenset()))):
            yield f"{name} gets {secret}, which it does not need"
        if service.get("env_file"):
            yield f"{name} gets all of {service['env_file']}"


def _is_on_every_network(port: str | Mapping[str, Any]) -> bool:
    if isinstance(port, Mapping):  # as `docker compose config` renders it
        return port.get("host_ip") in (None, "", "0.0.0.0")
    return port.startswith("0.0.0.0:") or port.count(":") < 2


def _has_healthcheck(service: Mapping[str, Any]) -> bool:
    check = service.get("healthcheck", {})
    if check.get("disable") or check.get("test") in ("NONE", ["NONE"]):
        return False
    return bool(check.get("test")) or "build" in service  # our own image brings one
