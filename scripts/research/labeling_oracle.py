"""Label the images of a running stack in Label Studio with their known labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from backend.images.known_labels import true_labels
from backend.images.pool import open_pool
from backend.labelstudio.project import LabelStudioProject
from backend.labelstudio.rows import prediction_result
from backend.store.project_record import project_root, read_record

TIMEOUT_S = 120.0
SECONDS_PER_IMAGE = 2.5
# A connection that is kept open would not survive a restart of the stack.
LIMITS = httpx.Limits(max_keepalive_connections=0)


class LabelingOracle:
    """An annotator with the true label of each image, who sends the labeling view's requests."""

    def __init__(self, info: Mapping[str, Any], data_dir: Path, client: httpx.Client) -> None:
        record = read_record(project_root(Path(info["model_dir"]), info["project_id"]))
        assert record is not None, "the project is set up"
        self._truth = true_labels(open_pool(record.pool, data_dir, seed=record.seed))
        self._project_id = info["project_id"]
        self._config = LabelStudioProject(
            info["label_studio_url"], info["api_key"], self._project_id
        ).label_config()
        self._client = client
        self._labeled: deque[tuple[int, str]] = deque()  # annotation ids with their true labels
        self._mistaken: list[tuple[int, str]] = []

    def label(self, count: int) -> None:
        """Label the next tasks correctly. A draft of each annotation is saved first."""
        for _ in range(count):
            task = self._request("GET", f"/api/projects/{self._project_id}/next")
            truth = self._truth[task["data"]["image_id"]]
            body = {
                "result": prediction_result(self._config, truth),
                "lead_time": SECONDS_PER_IMAGE,
                "parent_prediction": next((p["id"] for p in task["predictions"]), None),
            }
            path = f"/api/tasks/{task['id']}"
            draft = self._request("POST", f"{path}/drafts", body)
            given = self._request("POST", f"{path}/annotations/", body | {"draft_id": draft["id"]})
            self._labeled.append((given["id"], truth))

    def change(self, count: int) -> None:
        """Give the `count` oldest unchanged annotations wrong labels, or correct the last ones."""
        if self._mistaken:
            for annotation_id, truth in self._mistaken:
                self._edit(annotation_id, truth)
            self._mistaken = []
            return
        self._mistaken = [self._labeled.popleft() for _ in range(count)]
        for annotation_id, truth in self._mistaken:
            self._edit(annotation_id, next(c for c in self._config.choices if c != truth))

    def _edit(self, annotation_id: int, label: str) -> None:
        body = {"result": prediction_result(self._config, label)}
        self._request("PATCH", f"/api/annotations/{annotation_id}/", body)

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        return self._client.request(method, path, json=body).raise_for_status().json()


@contextmanager
def labeling_oracle(info: Mapping[str, Any], data_dir: Path) -> Iterator[LabelingOracle]:
    """Yield an oracle for the project in `info` (the content of stack.json)."""
    with httpx.Client(
        base_url=info["label_studio_url"],
        headers={"Authorization": f"Token {info['api_key']}"},
        timeout=TIMEOUT_S,
        limits=LIMITS,
        trust_env=False,
    ) as client:
        yield LabelingOracle(info, data_dir, client)
