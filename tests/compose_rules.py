"""What every compose file of ours must keep: a rendered file in, one sentence per breach out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

PUBLISHED = ("label-studio", "dashboard")
# Without `user:` a container runs as what its image says: these are images that do not say root.
NOT_ROOT = re.compile(r"tightloop|heartexlabs/label-studio")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|API_KEY|REDISCLI_AUTH|REDIS_URL")
ONE_SHOT = ("setup",)


def breaches(rendered: Mapping[str, Any]) -> Iterator[str]:
    """Whatever a team would regret, of `docker compose config` or of the file itself."""
    for name, service in rendered["services"].items():
        image = str(service["image"])
        if service.get("ports") and name not in PUBLISHED:
            yield f"{name} publishes a port"
        if any(map(_is_for_everybody, service.get("ports") or ())):
            yield f"{name} is published to everybody"
        if name not in ONE_SHOT and not _has_healthcheck(service):
            yield f"{name} has no health check"
        if ":" not in image or image.endswith(":latest"):
            yield f"{name} runs {image}, which may be another one tomorrow"
        user = str(service.get("user", ""))
        if user in ("root", "0") or not (user or NOT_ROOT.match(image)):
            yield f"{name} runs as root"
        if not service.get("mem_limit"):
            yield f"{name} may take all memory"
        if not service.get("logging", {}).get("options", {}).get("max-size"):
            yield f"{name} may fill the disk with its log"


def default_secrets(raw: Mapping[str, Any]) -> Iterator[str]:
    """Secrets of the file itself that are not asked for by `${NAME:?…}`."""
    for name, service in raw["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            is_secret = SECRET.search(variable) and value not in ("", "true", "false")
            if is_secret and not re.search(r"\$\{\w+:\?", str(value)):
                yield f"{name} has a default for {variable}"


def _is_for_everybody(port: str | Mapping[str, Any]) -> bool:
    if isinstance(port, Mapping):  # as `docker compose config` renders it
        return port.get("host_ip") in (None, "", "0.0.0.0")
    return port.startswith("0.0.0.0:") or port.count(":") < 2


def _has_healthcheck(service: Mapping[str, Any]) -> bool:
    check = service.get("healthcheck", {})
    if check.get("disable") or check.get("test") in ("NONE", ["NONE"]):
        return False
    return bool(check.get("test")) or "build" in service  # our own image brings one
