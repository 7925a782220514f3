"""Validate the content of requests so that the rest of the code can trust it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from flask import request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from werkzeug.exceptions import BadRequest, NotFound

from backend.labelstudio.incoming import WebhookEvent, project_id_of, read_webhook
from backend.store.project_record import known_projects

P = TypeVar("P", bound="Payload")


def _check_data(task: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(task.get("data") or {}, dict):
        raise ValueError("a task's data must be an object")
    return task


class Payload(BaseModel):
    """The JSON body of a request. Fields that we do not use are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SetupPayload(Payload):
    """POST /setup: the project that wants to use this backend, and its label config."""

    project: str | int
    label_config: str = Field("", alias="schema")


class PredictPayload(Payload):
    """POST /predict: tasks of one project, as dicts in label-studio-ml's format."""

    tasks: list[Annotated[dict[str, Any], AfterValidator(_check_data)]]
    project: str | int | None = None
    label_config: str | None = None


class VersionsPayload(Payload):
    """POST /versions: one project, or None for all."""

    project: str | int | None = None


def read_payload(kind: type[P], content: bytes) -> P:
    """Parse the JSON body of a request.

    Raises BadRequest, with a one-sentence reason, if the body is invalid.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{field or 'the body'}: {first['msg']}") from None


def read_event(content: bytes) -> WebhookEvent:
    """Parse the body of a webhook.

    Raises BadRequest, with the reason, if the body is invalid, including JSON that is nested too
    deeply or contains invalid Unicode.
    """
    try:
        return read_webhook(from_json(content))
    except ValueError as error:
        raise BadRequest(f"cannot read the webhook: {error}") from None


def project_number(project: object) -> int:
    """Return the id in Label Studio's project key ("7.1795346887").

    Raises BadRequest if the key contains no id.
    """
    try:
        return project_id_of(str(project))
    except ValueError as error:
        raise BadRequest(str(error)) from None


def requested_project() -> int | None:
    """Return the project id in a request, or None.

    Raises BadRequest if the id is not a number.
    """
    project = request.values.get("project")
    if project is None:
        return None
    if not project.isdecimal() or len(project) > 18:
        raise BadRequest("project must be a number")
    return int(project)


def required_project(model_dir: Path) -> int:
    """Return the project id in a request.

    Raises BadRequest if the id is missing or not a number. Raises NotFound if that project is not
    set up.
    """
    project_id = requested_project()
    if project_id is None:
        raise BadRequest("name a project")
    check_known(model_dir, project_id)
    return project_id


def requested_max_error() -> float:
    """Return the largest share of wrong labels in a request.

    Raises BadRequest unless it is a number between 0 and 1.
    """
    try:
        max_error = float(request.values.get("max_error", ""))
    except ValueError:
        max_error = math.nan
    if not 0 < max_error < 1:
        raise BadRequest(
            "max_error must be a number between 0 and 1, such as 0.02; no sample can prove that no "
            "label is wrong"
        )
    return max_error


def check_known(model_dir: Path, project_id: int) -> None:
    """Raise NotFound if the project is not set up."""
    if project_id not in known_projects(model_dir):
        raise NotFound(f"project {project_id} is not set up here")
