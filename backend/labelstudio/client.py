"""Send requests to Label Studio, and turn its errors into messages that explain the remedy.

The SDK handles authentication with both kinds of access token. Requests use plain JSON, because
the SDK's models triple the time that it takes to read tasks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import httpx
from label_studio_sdk.base_client import LabelStudioBase
from label_studio_sdk.core.api_error import ApiError

from backend.base.errors import DatabaseError, LabelStudioError, ProjectGoneError
from backend.labelstudio.database_errors import NO_REASON, find_database_error

UNCERTAINTY_SAMPLING = "Uncertainty sampling"
OLDEST_FIRST = "Sequential sampling"
TITLE_LENGTH = 50  # the maximum for a project
TIMEOUT = httpx.Timeout(120.0, connect=5.0)
# Each request uses its own connection, so no connection goes stale, needs closing or crosses a
# fork.
LIMITS = httpx.Limits(max_keepalive_connections=0)
REASON_LENGTH = 300
# If Label Studio refuses a task, its message repeats the task, including the image in it.
DATA_URI = re.compile(r"data:[^,\s]*;base64,[A-Za-z0-9+/=%]*")
REPEATABLE = ("GET", "PATCH", "DELETE")  # none of our requests with these methods adds anything
TRIES = 3
PAUSE_S = 0.3  # between tries
PROJECTS_PER_PAGE = 100  # Label Studio's maximum
NO_PROJECT = "No Project matches"  # how the reason begins if the requested project does not exist


class LabelStudio:
    """A Label Studio server.

    Methods raise LabelStudioError, whose message explains what to do.
    """

    def __init__(self, url: str, api_key: str) -> None:
        if not re.fullmatch(r"[!-~]+", api_key):
            raise LabelStudioError(
                "LABEL_STUDIO_API_KEY is empty, or contains spaces or other characters that no "
                "token has: copy the access token from Label Studio's Account & Settings"
            )
        self.url = url
        with _explaining(url):  # raises if the token has expired
            # The SDK's LabelStudio class loads pandas, which costs each process 95 MB and
            # several seconds.
            self._sdk = LabelStudioBase(
                base_url=f"{url}/",
                api_key=api_key,
                httpx_client=httpx.Client(timeout=TIMEOUT, limits=LIMITS),
                max_retries=0,
            )

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any | None = None,
        files: Mapping[str, Any] | None = None,
        may_be_gone: bool = False,
    ) -> Any:
        """Send a request; send `files`, each with a name, content and MIME type, as a form.

        If Label Studio's database fails, a request that is safe to repeat is repeated. Raises
        DatabaseError if the database still fails. Returns the response's JSON, or None for a 404
        response if `may_be_gone` is set.
        """
        tries_left = TRIES if method in REPEATABLE else 1
        while True:
            tries_left -= 1
            try:
                return self._send(method, path, params, json, files, may_be_gone=may_be_gone)
            except DatabaseError:
                if not tries_left:
                    raise
                time.sleep(PAUSE_S)

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        json: Any | None,
        files: Mapping[str, Any] | None,
        *,
        may_be_gone: bool,
    ) -> Any:
        with _explaining(self.url):
            # This client is not part of the public API, but all of the SDK's methods use it.
            response = self._sdk._client_wrapper.httpx_client.request(
                path,
                method=method,
                params=dict(params or {}),
                json=json,
                files=dict(files or {}) or None,
            )
            if response.status_code == 404 and may_be_gone:
                return None
            status = response.status_code
            body = _read_body(response)
        if not response.is_success:
            if error := find_database_error(self.url, status, _reason(body)):
                raise error
            if _reason(body).startswith(NO_PROJECT):
                raise ProjectGoneError(self.url, status)
            raise LabelStudioError(_explain(self.url, status, body), status)
        return body

    def authorization(self) -> str:
        """Return the Authorization header; refresh a personal access token if necessary."""
        with _explaining(self.url):
            return self._sdk._client_wrapper.get_headers()["Authorization"]


def find_project(
    url: str, api_key: str, *, titles: Sequence[str], project_id: int | None = None
) -> int | None:
    """Return `project_id` if that project exists. Otherwise, return the id of the oldest project
    with one of the titles, or None.
    """
    server = LabelStudio(url, api_key)
    fields = {"include": "id,title", "page_size": 1000}
    if project_id is not None:
        found = server.request("GET", "api/projects/", params={**fields, "ids": project_id})
        if found["results"]:
            return project_id
    ids: list[int] = []
    for title in titles:
        found = server.request("GET", "api/projects/", params={**fields, "title": title})
        ids += [p["id"] for p in found["results"] if p["title"] == title]
    return min(ids, default=None)


def find_projects(url: str, api_key: str) -> dict[int, str]:
    """Return the titles of all projects that the token's user may see, by id."""
    server = LabelStudio(url, api_key)
    titles: dict[int, str] = {}
    page, has_more = 1, True
    while has_more:
        fields = {"include": "id,title", "page_size": PROJECTS_PER_PAGE, "page": page}
        found = server.request("GET", "api/projects/", params=fields)
        titles |= {project["id"]: str(project["title"]) for project in found["results"]}
        page, has_more = page + 1, bool(found["next"])
    return titles


def create_project(
    url: str, api_key: str, *, title: str, label_config: str, sampling: str = UNCERTAINTY_SAMPLING
) -> int:
    """Create a project and return its id."""
    fields = {"title": title, "label_config": label_config, "sampling": sampling}
    return int(LabelStudio(url, api_key).request("POST", "api/projects/", json=fields)["id"])


def delete_project(url: str, api_key: str, project_id: int) -> None:
    """Delete a project with everything in it."""
    LabelStudio(url, api_key).request("DELETE", f"api/projects/{project_id}/")


def label_now_url(browser_url: str, project_id: int) -> str:
    """Return the URL of the page with the Label All Tasks button.

    Do not link to the label stream directly: until the button has been pressed once in a browser,
    `labeling=1` shows everyone the oldest task.
    """
    return f"{browser_url}/projects/{project_id}/data"


def authorization(url: str, api_key: str) -> str:
    """Return the Authorization header for this Label Studio server."""
    return _cached_server(url, api_key).authorization()


_cached_server = lru_cache(maxsize=1)(LabelStudio)


@contextmanager
def _explaining(url: str) -> Iterator[None]:
    """Replace errors from the SDK and httpx with LabelStudioErrors.

    The text of the original errors may contain tokens and cookies.
    """
    try:
        yield
    except ApiError as error:
        raise LabelStudioError(_explain(url, error.status_code, error.body)) from None
    except httpx.ReadTimeout:
        raise LabelStudioError(
            f"Label Studio at {url} did not answer within {TIMEOUT.read:.0f} s: check its log"
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LabelStudioError(
            f"Label Studio at {url} cannot be reached ({type(error).__name__}): "
            "check that it is running, and check LABEL_STUDIO_URL"
        ) from None
    except ValueError:  # not JSON
        raise LabelStudioError(
            f"{url} does not appear to be a Label Studio server: check LABEL_STUDIO_URL"
        ) from None


def _explain(url: str, status: int | None, body: Any) -> str:
    reason = DATA_URI.sub("data:…", _reason(body))[:REASON_LENGTH]
    if status is not None and status >= 500 and body is None:
        return f"Label Studio at {url} answered {status}: {NO_REASON}"
    if status == 401:
        return (
            f"Label Studio at {url} refused the token (401 {reason}): set LABEL_STUDIO_API_KEY "
            "to a valid access token of one of its users"
        )
    if status == 403 and "address" in reason:
        return (
            f"Label Studio at {url} refuses private addresses ({reason}): start it with "
            "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false"
        )
    if status == 403:
        return (
            f"Label Studio at {url} does not let the user of LABEL_STUDIO_API_KEY do this (403 "
            f"{reason}): set LABEL_STUDIO_API_KEY to the access token of a user who may do it"
        )
    return f"Label Studio at {url} answered {status}: {reason or 'no reason given'}"


def _reason(body: Any) -> str:
    if not isinstance(body, Mapping):
        return ""
    return str(body.get("validation_errors") or body.get("detail") or "")


def _read_body(response: httpx.Response) -> Any:
    """Return the JSON in a response, or None if it is empty or is an error page of Label Studio.

    Raises ValueError if another server responded.
    """
    try:
        return response.json() if response.content else None
    except ValueError:
        if response.status_code < 500:
            raise
        return None
