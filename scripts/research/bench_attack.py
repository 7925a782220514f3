"""What idle connections cost: webhooks as Label Studio sends them, beside 500 that send nothing."""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np

from backend.labelstudio.incoming import SECRET_HEADER
from scripts.research.idle_connections import KINDS
from scripts.research.temporary_backend import PROJECT, ROOT, USER, Backend

CONNECTIONS = 500
SECONDS = 60.0
WEBHOOKS_PER_S = 50
SENDERS = 20
LOST_AFTER_S = 1.0  # Label Studio gives up
SETTLE_S = 3.0


@dataclass
class Webhooks:
    """What became of the webhooks of one measurement."""

    seconds: list[float] = field(default_factory=list)
    lost: int = 0

    def __str__(self) -> str:
        sent = len(self.seconds) + self.lost
        if not self.seconds:
            return f"{self.lost} of {sent} lost"
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1000
        return f"p50 {p50:.1f}, p99 {p99:.1f} ms, {self.lost} of {sent} lost"


def measure_attacks(backend: Backend, predict_body: dict[str, object]) -> dict[str, Webhooks]:
    """Webhooks without an attack, under each kind, and under each during a /predict."""
    found = {"alone": send_webhooks(backend)}
    for kind in KINDS:
        with idle_connections(backend, kind):
            found[f"beside {CONNECTIONS} connections that trickle {kind}"] = send_webhooks(backend)
            with _predicting(backend, predict_body):
                name = f"… and a /predict of {len(predict_body['tasks'])} images"  # type: ignore[arg-type]
                found[f"{name} ({kind})"] = send_webhooks(backend)
    return found


def honest_webhook(image_id: str) -> dict[str, object]:
    """What Label Studio sends of an answer to an image, as far as we read it."""
    task = {"data": {"image": "x" * 4000, "image_id": image_id}}
    return {"action": "ANNOTATION_CREATED", "project": {"id": PROJECT}, "task": task}


def send_webhooks(backend: Backend, seconds: float = SECONDS) -> Webhooks:
    """Send them evenly, each on a connection of its own and of an image of its own; lost are those
    without an answer in time and those whose image was not kept.
    """
    found, lock = Webhooks(), threading.Lock()
    numbers = itertools.count()
    sent_at = time.time()
    start = time.perf_counter() + 0.5
    answered: dict[str, float] = {}

    def send(first_at: float) -> None:
        at = first_at
        while at < start + seconds:
            time.sleep(max(0.0, at - time.perf_counter()))
            image_id = f"sent at {sent_at}, {next(numbers)}"
            took_s = _send_one(backend, image_id)
            with lock:
                if took_s is None:
                    found.lost += 1
                else:
                    answered[image_id] = took_s
            at += SENDERS / WEBHOOKS_PER_S

    threads = [
        threading.Thread(target=send, args=(start + number / WEBHOOKS_PER_S,))
        for number in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = backend.queue.annotated_since(PROJECT, sent_at)
    found.lost += len(answered.keys() - kept.keys())
    found.seconds = [took_s for image_id, took_s in answered.items() if image_id in kept]
    return found


def _send_one(backend: Backend, image_id: str) -> float | None:
    body = json.dumps(honest_webhook(image_id))
    headers = {SECRET_HEADER: backend.password, "Content-Type": "application/json"}
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", backend.port, timeout=LOST_AFTER_S)
    try:
        connection.request("POST", "/webhook", body, headers)
        answer = connection.getresponse()
        answer.read()
    except OSError:
        return None
    finally:
        connection.close()
    return time.perf_counter() - began if answer.status == 200 else None


@contextmanager
def idle_connections(backend: Backend, kind: str) -> Iterator[None]:
    """Hold them open, in a process of their own."""
    command = [sys.executable, "-m", "scripts.research.idle_connections", backend.url, kind]
    options = ["--count", str(CONNECTIONS), "--seconds", str(4 * SECONDS)]
    attack = subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL)
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
        attack.terminate()
        attack.wait(30)


@contextmanager
def _predicting(backend: Backend, body: dict[str, object]) -> Iterator[None]:
    """Ask for predictions again and again."""
    over = threading.Event()

    def predict() -> None:
        with httpx.Client(auth=(USER, backend.password), timeout=120) as client:
            while not over.is_set():
                client.post(f"{backend.url}/predict", json=body).raise_for_status()

    asking = threading.Thread(target=predict)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()
