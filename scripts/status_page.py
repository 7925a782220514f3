"""Write the tables of docs/status.md from the fields of GET /status.

    python -m scripts.status_page

The text around the tables stays as it is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from backend.base.command_line import CommandParser, run
from backend.base.errors import TightloopError
from backend.web.status_model import Status

PAGE = Path(__file__).resolve().parents[1] / "docs/status.md"
HEADING = re.compile(r"## `(\w+)`")
REFERENCE = re.compile(r'"#/\$defs/(\w+)"')

Schema = dict[str, Any]  # JSON schema of an object, with "properties"


class MissingSectionError(TightloopError):
    """The page has no heading for one of the objects."""


def main() -> int:
    """Rewrite the page."""
    CommandParser(description=__doc__).parse_args()
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def with_tables(page: str) -> str:
    """Return the page with the table under each heading rewritten.

    MissingSectionError names an object without a heading. One heading is enough for two fields that
    hold the same kind of object.
    """
    objects = status_objects()
    explained = [objects[name] for name in HEADING.findall(page) if name in objects]
    for name, schema in objects.items():
        if schema not in explained:
            raise MissingSectionError(f"docs/status.md has no heading ## `{name}`: write one")
    sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return "".join(_with_table(section, objects) for section in sections).rstrip() + "\n"


def status_objects() -> dict[str, Schema]:
    """Return the schemas of all objects in the status, by the name of the field that holds them."""
    status = TypeAdapter(Status).json_schema(mode="serialization")
    objects, waiting = {}, [status]
    for schema in waiting:
        for name, field in schema["properties"].items():
            if held := REFERENCE.search(json.dumps(field)):
                objects[name] = status["$defs"][held[1]]
                waiting.append(objects[name])
    return objects


def _with_table(section: str, objects: dict[str, Schema]) -> str:
    heading = HEADING.match(section)
    if heading is None or heading[1] not in objects:
        return section
    prose = "\n".join(line for line in section.splitlines() if not line.startswith("|")).rstrip()
    rows = [
        f"| `{name}` | {field['description']}{': see below' if name in objects else ''} |"
        for name, field in objects[heading[1]]["properties"].items()
    ]
    return "\n".join([prose, "", "| field | tells |", "|---|---|", *rows, "", ""])


if __name__ == "__main__":
    run(main)
