"""Detect and undo people's changes to a project's webhook and ML backend connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from backend.labelstudio.incoming import SECRET_HEADER
from backend.labelstudio.project_connection import Address
from backend.labelstudio.project_setup import ProjectSetup
from tests.integration.labelstudio.receiver import (
    PASSWORD,
    SECRET,
    USER,
    Receiver,
    backends,
    receiving,
    webhooks,
)


@pytest.fixture
def address(receiver: Receiver) -> Address:
    return Address(receiver.url, USER, PASSWORD, SECRET)


@pytest.fixture
def faults(project: ProjectSetup, address: Address) -> Callable[[], tuple[str, str]]:
    """Connect the project; return a function that returns the faults of both parts."""
    project.connect(address)

    def both() -> tuple[str, str]:
        return (
            project.webhook_fault(f"{address.url}/webhook", address.secret),
            project.backend_fault(address.url, address.user),
        )

    assert both() == ("", "")
    return both


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"is_active": False}, "was switched off"),
        ({"url": "http://127.0.0.1:1/webhook"}, "was given another address"),
        ({"headers": {}}, "no longer sends the secret"),
        (
            {"actions": ["ANNOTATION_CREATED"]},
            "no longer reports exactly the changes that Tightloop needs",
        ),
        ({"send_payload": False}, "no longer reports exactly the changes that Tightloop needs"),
    ],
)
def test_a_changed_webhook_is_named_and_restored(
    project: ProjectSetup,
    api: httpx.Client,
    address: Address,
    faults: Callable[[], tuple[str, str]],
    changes: dict[str, Any],
    fault: str,
) -> None:
    [hook] = webhooks(api, project)
    whole = {"url": hook["url"], "headers": hook["headers"], "actions": hook["actions"]}
    api.patch(f"/api/webhooks/{hook['id']}/", json=whole | changes).raise_for_status()
    assert faults() == (fault, "")
    assert project.connect(address)
    assert faults() == ("", "")
    assert [hook["headers"] for hook in webhooks(api, project)] == [{SECRET_HEADER: SECRET}]


def test_what_was_deleted_is_named_and_restored(
    project: ProjectSetup,
    api: httpx.Client,
    address: Address,
    faults: Callable[[], tuple[str, str]],
) -> None:
    [hook], [backend] = webhooks(api, project), backends(api, project)
    api.delete(f"/api/webhooks/{hook['id']}/").raise_for_status()
    assert faults() == ("was deleted", "")
    api.delete(f"/api/ml/{backend['id']}").raise_for_status()
    assert faults() == ("was deleted", "was deleted")
    assert project.connect(address)
    assert faults() == ("", "")


def test_a_second_webhook_or_connection_is_named_and_removed(
    project: ProjectSetup,
    api: httpx.Client,
    address: Address,
    faults: Callable[[], tuple[str, str]],
) -> None:
    hook = {"project": project.project_id, "url": f"{address.url}/webhook"}
    api.post("/api/webhooks/", json=hook).raise_for_status()
    ml = {"project": project.project_id, "url": address.url, "title": "Mine"}
    ml |= {"auth_method": "BASIC_AUTH", "basic_auth_user": USER, "basic_auth_pass": PASSWORD}
    api.post("/api/ml/", json=ml).raise_for_status()
    assert faults() == ("exists more than once", "exists more than once")
    assert project.connect(address)
    assert faults() == ("", "")
    assert (len(webhooks(api, project)), len(backends(api, project))) == (1, 1)


def test_a_backend_that_moved_or_refuses_the_password_is_named_but_one_that_is_down_is_not(
    project: ProjectSetup,
    api: httpx.Client,
    receiver: Receiver,
    faults: Callable[[], tuple[str, str]],
) -> None:
    receiver.password = "a new password"
    assert faults() == ("", "was given another password")
    receiver.password = PASSWORD
    with receiving() as other:
        ml = {"project": project.project_id, "url": other.url, "auth_method": "BASIC_AUTH"}
        ml |= {"basic_auth_user": USER, "basic_auth_pass": PASSWORD}
        [backend] = backends(api, project)
        api.patch(f"/api/ml/{backend['id']}", json=ml).raise_for_status()
        assert faults() == ("", "was given another address")
    with receiving() as down:
        project.connect(Address(down.url, USER, PASSWORD, SECRET))
    assert project.webhook_fault(f"{down.url}/webhook", SECRET) == ""
    assert project.backend_fault(down.url, USER) == ""
