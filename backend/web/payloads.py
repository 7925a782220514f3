"""Check what Label Studio sends to the ML backend, so that everything behind can trust it."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

P = TypeVar("P", bound="Payload")


def _has_data(task: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(task.get("data") or {}, dict):
        raise ValueError("a task's data must be an object")
    return task


class Payload(BaseModel):
    """A request's JSON; what we do not use of it is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SetupPayload(Payload):
    """POST /setup: which project would use us, with which label config."""

    project: str | int
    label_config: str = Field("", alias="schema")


class PredictPayload(Payload):
    """POST /predict: tasks of one project. They stay the dicts that label-studio-ml knows."""

    tasks: list[Annotated[dict[str, Any], AfterValidator(_has_data)]]
    project: str | int | None = None
    label_config: str | None = None


class VersionsPayload(Payload):
    """POST /versions: of one project, or of all."""

    project: str | int | None = None


def read_payload(kind: type[P], content: bytes) -> P:
    """Parse a body; ValueError says in one sentence what is wrong with it."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where or 'the body'}: {first['msg']}") from None


def read_json(content: bytes) -> Any:
    """Parse any JSON; ValueError where it is none, nests too deeply or holds broken Unicode."""
    try:
        return from_json(content)
    except ValueError as error:
        raise ValueError(f"the body is not JSON: {error}") from None
