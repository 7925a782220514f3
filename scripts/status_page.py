"""Write the tables of docs/status.md from the fields of GET /status.

    python -m scripts.status_page

The prose around the tables stays as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from backend.base.command_line import CommandParser, run
from backend.web.status_model import Status

PAGE = Path(__file__).resolve().parents[1] / "docs/status.md"
HEADING = re.compile(r"## `(\w+)`")


@dataclass(frozen=True)
class StatusField:
    """One field of an object in the status."""

    name: str
    description: str
    object_type: type | None  # of the object that it holds, or of those in its list


def main() -> int:
    """Rewrite the page; 1 if it cannot be read, or has no section for one of the objects."""
    CommandParser(description=__doc__).parse_args()
    try:
        written = with_tables(PAGE.read_text(encoding="utf-8"))
    except (LookupError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    PAGE.write_text(written, encoding="utf-8")
    return 0


def with_tables(page: str) -> str:
    """Return the page with the table under each heading written anew; LookupError names an object
    without a heading.
    """
    objects = dict(objects_below(Status))
    headings = set(HEADING.findall(page))
    explained = {objects[name] for name in headings & objects.keys()}
    missing = [name for name, object_type in objects.items() if object_type not in explained]
    if missing:
        raise LookupError(f"docs/status.md has no heading ## `{missing[0]}`: write one")
    sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return "".join(_with_table(section, objects) for section in sections).rstrip() + "\n"


def fields_of(object_type: type) -> list[StatusField]:
    """Return the fields that an object of the status has in JSON, in their order."""
    if issubclass(object_type, BaseModel):
        return [
            StatusField(name, field.description or "", _object_in(field.annotation))
            for name, field in object_type.model_fields.items()
        ]
    assert is_dataclass(object_type)
    hints = get_type_hints(object_type)
    return [
        StatusField(field.name, field.metadata["description"], _object_in(hints[field.name]))
        for field in fields(object_type)
        if not field.metadata.get("exclude")
    ]


def objects_below(object_type: type) -> Iterator[tuple[str, type]]:
    """Every object below this one, by the name of the field that holds it."""
    for field in fields_of(object_type):
        if field.object_type is not None:
            yield field.name, field.object_type
            yield from objects_below(field.object_type)


def _object_in(annotation: Any) -> type | None:
    if isinstance(annotation, type) and not get_args(annotation):
        is_object = issubclass(annotation, BaseModel) or is_dataclass(annotation)
        return annotation if is_object else None
    found = (_object_in(part) for part in get_args(annotation))
    return next((object_type for object_type in found if object_type is not None), None)


def _with_table(section: str, objects: dict[str, type]) -> str:
    heading = HEADING.match(section)
    if heading is None or heading[1] not in objects:
        return section
    prose = "\n".join(line for line in section.splitlines() if not line.startswith("|")).rstrip()
    return "\n".join([prose, "", *_table(objects[heading[1]]), "", ""])


def _table(object_type: type) -> list[str]:
    rows = [
        f"| `{field.name}` | {field.description}{': see below' if field.object_type else ''} |"
        for field in fields_of(object_type)
    ]
    return ["| field | tells |", "|---|---|", *rows]


if __name__ == "__main__":
    run(main)
