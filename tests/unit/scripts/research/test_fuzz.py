"""Send hostile requests to a real backend with a real Redis: a short form of `make fuzz`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from flask import Flask

from backend.base.settings import load_settings
from backend.web.serving import create_app
from scripts.research.fuzz import OPENAPI, Report, Target, fuzz
from scripts.research.random_project import CLASSES, PROJECT
from scripts.research.temporary_stack import USER, Backend, running_backend
from tests.patience import PATIENCE_S

REQUESTS = 700
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def backend() -> Iterator[Backend]:
    with (
        tempfile.TemporaryDirectory(prefix="tightloop-") as folder,
        running_backend(Path(folder)) as running,
    ):
        yield running


def test_no_request_gets_5xx_or_a_traceback_and_no_webhook_is_lost(
    backend: Backend,
) -> None:
    login = (USER, backend.password)
    target = Target(backend.url, PROJECT, CLASSES, backend.password, backend.password, login, login)
    report = fuzz(target, REQUESTS)
    assert report.is_clean, "\n".join(report.lines())
    assert report.statuses.total() >= REQUESTS
    assert report.statuses[200] > 0
    assert report.statuses[400] > REQUESTS / 10
    assert psutil.Process(backend.pid).status() != psutil.STATUS_ZOMBIE
    assert "Traceback" not in backend.log.read_text()
    assert len(requests.get(f"{backend.url}/status", timeout=PATIENCE_S).json()["projects"]) == 1


def test_a_report_names_what_failed_and_what_was_lost() -> None:
    report = Report(failures=["500 'x': GET /"], lost_webhooks=["ReadTimeout"], webhook_s=[0.1])
    assert not report.is_clean
    assert report.lines()[-2:] == ["FAILED  500 'x': GET /", "LOST    ReadTimeout"]
    assert Report(webhook_s=[0.1]).is_clean
    assert not Report().is_clean  # nothing was measured


def test_the_described_routes_match_the_routes_of_the_backend(tmp_path: Path) -> None:
    described = yaml.safe_load(OPENAPI.read_text())["paths"]
    settings = load_settings(
        _env_file=None, model_dir=tmp_path, backend_password="x", webhook_secret="x"
    )
    assert {path: METHODS & set(found) for path, found in described.items()} == routes_of(
        create_app(settings)
    )


def routes_of(app: Flask) -> dict[str, set[str]]:
    """Path -> methods, in the spelling of OpenAPI."""
    found: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        methods = {method.lower() for method in rule.methods or ()} & METHODS
        found[path] = found.get(path, set()) | methods
    return found
