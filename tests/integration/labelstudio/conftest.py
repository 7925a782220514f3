"""Provide a project in a real Label Studio that the stack does not handle."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from backend.labelstudio.client import create_project
from backend.labelstudio.label_config import label_config_xml
from backend.labelstudio.project_setup import ProjectSetup
from scripts.research.accounts import invite_link, log_in, sign_up
from tests.integration.conftest import Stack
from tests.integration.labelstudio.receiver import Receiver, receiving
from tests.patience import PATIENCE_S

TITLE = "Edge under test"


@pytest.fixture(scope="module")
def credentials(stack: Stack) -> tuple[str, str]:
    """Label Studio's address and a legacy token."""
    settings = stack.settings
    return settings.label_studio_url, settings.label_studio_api_key.get_secret_value()


@pytest.fixture(scope="module")
def api(credentials: tuple[str, str]) -> Iterator[httpx.Client]:
    """A client with an administrator's token."""
    url, token = credentials
    headers = {"Authorization": f"Token {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
def project(credentials: tuple[str, str], api: httpx.Client) -> Iterator[ProjectSetup]:
    """Provide a project with the classes cat and dog, which the stack does not handle."""
    project_id = create_project(
        *credentials, title=TITLE, label_config=label_config_xml(["cat", "dog"])
    )
    yield ProjectSetup(*credentials, project_id)
    api.delete(f"/api/projects/{project_id}/").raise_for_status()


@pytest.fixture
def second(credentials: tuple[str, str], api: httpx.Client) -> Iterator[httpx.Client]:
    """A client of a second annotator, whose account is deleted in the end."""
    url, token = credentials
    email = "validator@example.org"
    assert sign_up(url, invite_link(url, token), email).status_code == 302
    user_id, second_token = log_in(url, email)
    headers = {"Authorization": f"Token {second_token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S) as client:
        yield client
    api.delete(f"/api/users/{user_id}/").raise_for_status()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver
