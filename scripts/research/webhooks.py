"""Send webhooks to a backend as Label Studio does, and measure the responses."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from backend.labelstudio.incoming import SECRET_HEADER
from scripts.research.figure import percentiles
from scripts.research.random_project import PROJECT
from scripts.research.temporary_backend import Backend

PER_S = 50
SENDERS = 20
LOST_AFTER_S = 1.0  # Label Studio gives up


@dataclass(frozen=True)
class Webhooks:
    """The results of the webhooks of one measurement."""

    seconds: Sequence[float]
    lost: int

    def __str__(self) -> str:
        lost = f"{self.lost} of {len(self.seconds) + self.lost} lost"
        return f"{percentiles(self.seconds)}, {lost}" if self.seconds else lost


def webhook(image_id: str) -> dict[str, object]:
    """Return the parts that we read of Label Studio's webhook about an annotation of an image."""
    task = {"data": {"image": "x" * 4000, "image_id": image_id}}
    return {"action": "ANNOTATION_CREATED", "project": {"id": PROJECT}, "task": task}


def send_webhooks(
    backend: Backend, seconds: float, *, per_s: float = PER_S, keep_connections: bool = False
) -> Webhooks:
    """Send webhooks at a constant rate for `seconds`, each about a different image.

    With `per_s` = 0 each of SENDERS sends the next one at once. Each webhook opens a connection, as
    those of Label Studio do, unless `keep_connections`. A webhook is lost if there is no response
    in time, or if its image was not recorded.
    """
    numbers = itertools.count()
    failed: list[str] = []
    answered: dict[str, float] = {}
    limits = httpx.Limits(max_keepalive_connections=SENDERS if keep_connections else 0)
    headers = {SECRET_HEADER: backend.password}
    client = httpx.Client(headers=headers, timeout=LOST_AFTER_S, limits=limits)
    sent_at, start = time.time(), time.perf_counter() + 0.5

    def send(number: int) -> None:
        at = start + (number / per_s if per_s else 0)
        while at < start + seconds:
            time.sleep(max(0.0, at - time.perf_counter()))
            image_id = f"sent at {sent_at}, {next(numbers)}"
            began = time.perf_counter()
            try:
                response = client.post(f"{backend.url}/webhook", json=webhook(image_id))
                response.raise_for_status()
                answered[image_id] = time.perf_counter() - began
            except httpx.HTTPError:
                failed.append(image_id)
            at = at + SENDERS / per_s if per_s else time.perf_counter()

    with client, ThreadPoolExecutor(SENDERS) as threads:
        list(threads.map(send, range(SENDERS)))
    recorded = backend.queue.annotated_since(PROJECT, sent_at).keys()
    return Webhooks(
        [took_s for image_id, took_s in answered.items() if image_id in recorded],
        len(failed) + len(answered.keys() - recorded),
    )
