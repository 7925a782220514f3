"""Send hostile requests to a whole stack, and check that it neither fails nor loses webhooks.

    python -m scripts.research.fuzz

Schemathesis derives half of the requests from docs/openapi.yaml; the others have hostile bodies
from hostile_bodies.py. Meanwhile, five valid webhooks are sent per second. The report lists every
status of 500 or above (except 503 "no model yet"), every traceback and every webhook that was not
counted. If it lists any, the exit code is 1. The temporary stack in var/fuzz is removed.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import requests
import schemathesis
import yaml
from dotenv import dotenv_values
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.result import Ok

from backend.base.command_line import ROOT, CommandParser, run
from backend.labelstudio.incoming import SECRET_HEADER
from backend.store.project_record import project_root, read_record
from backend.web.backend_client import CONTROL_HEADER
from scripts.research.hostile_bodies import hostile_bodies
from scripts.research.measurement import in_background, percentiles
from scripts.research.temporary_stack import temporary_stack

OPENAPI = ROOT / "docs/openapi.yaml"
REQUESTS = 10_000
CONTROL_SECRET = "of the fuzzed stack"
WEBHOOK_EVERY_S, TIMEOUT_S = 0.2, 60.0
OTHER_METHODS = ("PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "GET", "POST")
CONTENT_TYPES = ("application/json", "application/x-www-form-urlencoded", "text/plain", "", "x")
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {},
    {"Host": "\u00e9.example"},
    {"Origin": "http://example.org"},
    {"X-Forwarded-For": "x" * 2000},
    {"Range": "bytes=5-1"},
    {"If-None-Match": '"'},
    {"Accept-Encoding": "zip"},
    {"Cookie": "a=" + "b" * 4000},
    {"Authorization": "Basic ////"},
    {"Expect": "100-continue"},
)


@dataclass(frozen=True)
class Target:
    """A backend on this machine, and all its passwords."""

    url: str
    project_id: int
    classes: tuple[str, ...]
    secret: str
    control_secret: str
    backend: tuple[str, str]
    dashboard: tuple[str, str]


@dataclass
class Report:
    """The results of one run."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    webhook_s: list[float] = field(default_factory=list)
    lost_webhooks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether no request failed and every valid webhook was counted."""
        return not self.failures and not self.lost_webhooks and bool(self.webhook_s)

    def lines(self) -> list[str]:
        """Return the report as human-readable lines."""
        statuses = ", ".join(f"{status}: {n:,}" for status, n in sorted(self.statuses.items()))
        return [
            f"{self.statuses.total():,} requests in {self.seconds:.0f} s; responses {statuses}",
            f"{len(self.webhook_s):,} valid webhooks counted, {len(self.lost_webhooks)} lost; "
            f"{percentiles(self.webhook_s)}",
            *(f"FAILED  {failure}" for failure in self.failures),
            *(f"LOST    {lost}" for lost in self.lost_webhooks),
        ]


def main() -> int:
    """Fuzz a temporary stack; return 1 if anything failed."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    arguments = parser.parse_args()
    with temporary_stack("fuzz", CONTROL_SECRET=CONTROL_SECRET) as stack:
        report = fuzz(_target(stack.info, stack.var), arguments.requests)
        for path in (stack.var / "log").glob("*.log"):
            n_traces = path.read_text(errors="replace").count("Traceback (most recent call last)")
            if n_traces and path.name != "label-studio.log":  # Label Studio's errors are not ours
                report.failures.append(f"{n_traces} tracebacks in {path.name}")
                shutil.copy(path, ROOT / "var" / f"fuzz-{path.name}")
    print("\n".join(report.lines()))
    return 0 if report.is_clean else 1


def fuzz(target: Target, n_requests: int) -> Report:
    """Send `n_requests` hostile requests, and valid webhooks at the same time."""
    report, began = Report(), time.monotonic()
    with in_background(partial(_send_valid_webhooks, target, report)):
        _send_described(target, report, n_requests // 2)
        _send_hostile(target, report, n_requests - report.statuses.total())
    report.seconds = time.monotonic() - began
    return report


def _send_described(target: Target, report: Report, n_requests: int) -> None:
    """Send requests that docs/openapi.yaml allows, and requests that just barely violate it."""
    schema = schemathesis.openapi.from_path(OPENAPI)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    session = requests.Session()
    for operation in operations:
        for mode in modes:

            @seed(0)
            @settings(
                max_examples=max(1, n_requests // (len(operations) * len(modes))),
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.quiet,
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def send(case: schemathesis.Case[Any]) -> None:
                what = f"{case.method} {case.path} {case.body!r:.200}"
                request = case.as_transport_kwargs(base_url=target.url)
                _send(session, target, report, what, **request)

            try:
                send()
            except Unsatisfiable:
                continue  # a request without parameters or body cannot violate anything


def _send_hostile(target: Target, report: Report, n_requests: int) -> None:
    """Send requests with hostile bodies, nine out of ten of them to routes that read a body."""
    rng, session = Random(0), requests.Session()
    bodies = list(hostile_bodies(target.project_id, target.classes).items())
    rng.shuffle(bodies)
    routes = [
        (method.upper(), path.replace("{filename}", "dashboard.css"))
        for path, methods in yaml.safe_load(OPENAPI.read_text())["paths"].items()
        for method in methods
    ]
    posts = [route for route in routes if route[0] == "POST"]
    for number in range(n_requests):
        name, body = bodies[number % len(bodies)]
        method, path = rng.choice(posts if rng.random() < 0.9 else routes)
        if rng.random() < 0.1:
            method = rng.choice(OTHER_METHODS)
        headers = {"Content-Type": rng.choice(CONTENT_TYPES), **rng.choice(HEADERS)}
        what = f"{method} {path} with {name}, {headers}"
        url = f"{target.url}{path}"
        _send(session, target, report, what, method=method, url=url, data=body, headers=headers)


def _send(
    session: requests.Session, target: Target, report: Report, what: str, **request: Any
) -> None:
    """Send one request with every password that its path accepts, and check the response."""
    people = ("/dashboard", "/controls", "/status", "/metrics")
    is_for_people = any(part in request["url"] for part in people)
    request["auth"] = target.dashboard if is_for_people else target.backend
    if request["url"].endswith("/webhook"):
        request["headers"] = {**request["headers"], SECRET_HEADER: target.secret}
    if "/controls/" in request["url"]:
        request["headers"] = {**request["headers"], CONTROL_HEADER: target.control_secret}
    try:
        response = session.request(**request, timeout=TIMEOUT_S, allow_redirects=False)
    except (requests.RequestException, UnicodeError, ValueError) as error:
        # The client cannot send such a request, or the server refused it before it was complete.
        report.statuses[0] += 1
        if isinstance(error, requests.Timeout):
            report.failures.append(f"no response within {TIMEOUT_S:.0f} s: {what}")
        return
    report.statuses[response.status_code] += 1
    is_early = response.status_code == 503 and "no model yet" in response.text
    if (response.status_code >= 500 and not is_early) or "Traceback" in response.text:
        report.failures.append(f"{response.status_code} {response.text[:200]!r}: {what}")


def _send_valid_webhooks(target: Target, report: Report, over: Event, _: int) -> None:
    body: Any = {"action": "ANNOTATION_CREATED", "project": {"id": target.project_id}}
    headers = {SECRET_HEADER: target.secret, "Connection": "close"}
    while not over.wait(WEBHOOK_EVERY_S):
        began = time.perf_counter()
        try:
            response = requests.post(
                f"{target.url}/webhook", json=body, headers=headers, timeout=TIMEOUT_S
            )
        except requests.RequestException as error:
            report.lost_webhooks.append(type(error).__name__)
            continue
        if response.status_code == 200 and response.json()["status"] == "counted":
            report.webhook_s.append(time.perf_counter() - began)
        else:
            report.lost_webhooks.append(f"{response.status_code} {response.text[:100]}")


def _target(stack: Mapping[str, Any], var: Path) -> Target:
    kept = dotenv_values(var / "stack.env")
    record = read_record(project_root(Path(stack["model_dir"]), stack["project_id"]))
    return Target(
        url=stack["backend_url"],
        project_id=stack["project_id"],
        classes=record.classes if record else (),
        secret=stack["webhook_secret"],
        control_secret=CONTROL_SECRET,
        backend=("tightloop", kept["BACKEND_PASSWORD"] or ""),
        dashboard=(stack["dashboard_username"], stack["dashboard_password"]),
    )


if __name__ == "__main__":
    run(main)
