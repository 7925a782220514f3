"""Serve the S3 protocol on loopback, to the client that reads real buckets."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import fsspec
import httpx
import pytest
from moto.server import ThreadedMotoServer

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@contextmanager
def serve_s3() -> Iterator[dict[str, str]]:
    """Start a server, and yield the environment that leads there."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            **dict.fromkeys(KEYS, "testing"),
        }
    finally:
        server.stop()


def fill_bucket(bucket: str, files: Mapping[str, bytes]) -> None:
    """Create a bucket, or add files to it."""
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    client = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    if not client.exists(bucket):
        client.mkdir(bucket)
    for path, content in files.items():
        client.pipe_file(f"{bucket}/{path}", content)


@contextmanager
def refuse_all(server: str) -> Iterator[None]:
    """Let the server check who may do what: it knows no user."""
    httpx.post(f"{server}/moto-api/reset-auth", content="0").raise_for_status()
    try:
        yield
    finally:
        httpx.post(f"{server}/moto-api/reset-auth", content="inf").raise_for_status()


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with serve_s3() as environment:
        yield environment


@pytest.fixture
def bucket(s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new bucket."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Neither this machine's credentials nor those of a virtual machine in a cloud
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"photos-{uuid.uuid4().hex[:8]}"
    fill_bucket(name, {})
    return name
