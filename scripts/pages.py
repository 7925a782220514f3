"""Write the tables of docs/status.md and docs/settings.md from the code.

    python -m scripts.pages

The text around the tables stays unchanged.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import SecretStr, TypeAdapter

from backend.base.command_line import ROOT, CommandParser, run
from backend.base.errors import TightloopError
from backend.base.settings import Settings
from backend.web.status_model import Status

STATUS_PAGE = ROOT / "docs/status.md"
SETTINGS_PAGE = ROOT / "docs/settings.md"
HEADING = re.compile(r"## `(\w+)`")
REFERENCE = re.compile(r'"#/\$defs/(\w+)"')
SETTING_ROW = re.compile(r"^\| `([A-Z_]+)` \|.*$", re.MULTILINE)


Schema = dict[str, Any]  # JSON schema of an object, with "properties"


class IncompletePageError(TightloopError):
    """A page lacks a heading or row that must be filled in."""


def main() -> int:
    """Rewrite both pages."""
    CommandParser(description=__doc__).parse_args()
    status = with_status_tables(STATUS_PAGE.read_text(encoding="utf-8"))
    settings = with_setting_rows(SETTINGS_PAGE.read_text(encoding="utf-8"))
    STATUS_PAGE.write_text(status, encoding="utf-8")
    SETTINGS_PAGE.write_text(settings, encoding="utf-8")
    return 0


def with_status_tables(page: str) -> str:
    """Return the page with the table under each heading rewritten.

    Raises IncompletePageError if an object has no heading. Fields that contain the same kind of
    object share one heading.
    """
    objects = status_objects()
    explained = [objects[name] for name in HEADING.findall(page) if name in objects]
    for name, schema in objects.items():
        if schema not in explained:
            raise IncompletePageError(f"docs/status.md has no heading ## `{name}`: write one")
    sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    return "".join(_with_table(section, objects) for section in sections).rstrip() + "\n"


def status_objects() -> dict[str, Schema]:
    """Return the schemas of the objects in the status, keyed by field name."""
    status = TypeAdapter(Status).json_schema(mode="serialization")
    objects, waiting = {}, [status]
    for schema in waiting:
        for name, field in schema["properties"].items():
            if held := REFERENCE.search(json.dumps(field)):
                objects[name] = status["$defs"][held[1]]
                waiting.append(objects[name])
    return objects


def settings_by_variable() -> dict[str, Schema]:
    """Return the schema of every setting, keyed by environment variable."""
    properties = Settings.model_json_schema()["properties"]
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, SecretStr):  # the schema would show asterisks
            properties[field.alias or name]["default"] = field.default.get_secret_value()
    return {name.upper(): setting for name, setting in properties.items()}


def with_setting_rows(page: str) -> str:
    """Return the page with the row of each setting rewritten and all other rows unchanged.

    Raises IncompletePageError if a setting has no row.
    """
    settings = settings_by_variable()
    for missing in settings.keys() - set(SETTING_ROW.findall(page)):
        raise IncompletePageError(f"docs/settings.md has no row | `{missing}` |: add one")

    def rewritten(row: re.Match[str]) -> str:
        return _setting_row(row[1], settings[row[1]]) if row[1] in settings else row[0]

    return SETTING_ROW.sub(rewritten, page)


def _with_table(section: str, objects: dict[str, Schema]) -> str:
    heading = HEADING.match(section)
    if heading is None or heading[1] not in objects:
        return section
    prose = "\n".join(line for line in section.splitlines() if not line.startswith("|")).rstrip()
    rows = [
        f"| `{name}` | {field['description']}{_pointer(field)} |"
        for name, field in objects[heading[1]]["properties"].items()
    ]
    return "\n".join([prose, "", "| field | meaning |", "|---|---|", *rows, "", ""])


def _pointer(field: Schema) -> str:
    """Return a pointer to the table of the objects that a field contains, if any."""
    return ": see below" if REFERENCE.search(json.dumps(field)) else ""


def _setting_row(variable: str, setting: Schema) -> str:
    default = setting["default"]
    shown = default if isinstance(default, str) else json.dumps(default).removesuffix(".0")
    default_cell = "none" if default in ("", None, []) else f"`{shown}`"
    return f"| `{variable}` | {default_cell} | {_allowed(setting)} | {setting['description']} |"


def _allowed(setting: Schema) -> str:
    """Return the values that a setting accepts, as far as its type defines them."""
    value = setting.get("anyOf", [setting])[0]  # the other alternative is null
    if value["type"] == "boolean":
        return "`true`, `false`"
    if "enum" in value:
        return ", ".join(f"`{name}`" for name in value["enum"])
    if "exclusiveMinimum" in value:
        most = f", up to {value['maximum']:,}" if "maximum" in value else ""
        return f"more than {value['exclusiveMinimum']:g}{most}"
    if "minLength" in value:
        return f"{value['minLength']} to {value['maxLength']} characters"
    if "minimum" not in value:
        return ""
    if "maximum" not in value:
        return f"at least {value['minimum']:g}"
    factor = f", a multiple of {value['multipleOf']}" if "multipleOf" in value else ""
    return f"{value['minimum']:,} to {value['maximum']:,}{factor}"


if __name__ == "__main__":
    run(main)
