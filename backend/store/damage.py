"""Convert errors that occur while reading a version or a body into BrokenVersionErrors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from backend.base.errors import BrokenVersionError


@contextmanager
def broken_version_errors(path: Path) -> Iterator[None]:
    """Convert errors that occur while reading a file of a version or a body."""
    version = path.parent.name
    try:
        yield
    except FileNotFoundError:
        raise BrokenVersionError(
            f"{version} has no {path.name}: it is incomplete or was not made by Tightloop"
        ) from None
    except OSError as error:
        raise BrokenVersionError(
            f"{version}/{path.name} cannot be read: {error.strerror or error}"
        ) from None
    except ValidationError as error:
        raise BrokenVersionError(f"{version}/{path.name} is damaged ({_describe(error)})") from None


def _describe(error: ValidationError) -> str:
    """Name the first invalid field and the reason, without quoting its value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where!r:.80}: {first['msg']}" if where else f"not JSON: {first['msg']}"
