"""Test what supervisord hands to the programs of a local stack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from scripts.local import supervisor
from scripts.local.folder import StackFolder
from scripts.local.programs import Program
from tests.patience import wait_for


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StackFolder]:
    made = StackFolder(tmp_path)
    (tmp_path / "log").mkdir()
    made.make_sockets_folder()
    yield made
    made.remove_sockets_folder()


def test_only_programs_that_read_images_get_the_credentials_of_buckets(
    folder: StackFolder,
) -> None:
    printed = [folder.path / name for name in ("reads", "other")]
    environment = {
        **os.environ,
        "AWS_SECRET_ACCESS_KEY": "secret",
        "GOOGLE_APPLICATION_CREDENTIALS": "/key.json",
        "POOL": "s3://photos/",
    }
    programs = [
        Program(
            path.name,
            ["sh", "-c", f"env > {path}.draft; mv {path}.draft {path}; exec sleep 600"],
            reads_images=path.name == "reads",
            options={"autostart": "true"},
        )
        for path in printed
    ]
    process = supervisor.start(folder, environment, programs)
    try:
        wait_for(lambda: all(path.exists() for path in printed), "both programs")
    finally:
        process.terminate()
        process.wait()
    texts = [path.read_text() for path in printed]
    assert "AWS_SECRET_ACCESS_KEY=secret\n" in texts[0]
    assert "GOOGLE_APPLICATION_CREDENTIALS=/key.json\n" in texts[0]
    assert "AWS_SECRET_ACCESS_KEY=\n" in texts[1]
    assert "GOOGLE_APPLICATION_CREDENTIALS=\n" in texts[1]
    assert all("POOL=s3://photos/\n" in text for text in texts)


def test_the_log_of_a_stack_whose_programs_keep_dying_does_not_fill_the_disk(
    folder: StackFolder,
) -> None:
    dying = Program("dying", ["false"], options={"autostart": "true"})
    process = supervisor.start(folder, {**os.environ}, [dying])
    try:
        wait_for(lambda: "exited: dying" in folder.log("supervisord").read_text(), "its death")
    finally:
        process.terminate()
        process.wait()
    config = ConfigParser(interpolation=None)
    config.read(folder.sockets / "supervisord.conf")
    sizes = [
        (section[name], section[name.replace("maxbytes", "backups")])
        for section in config.values()
        for name in section
        if name.endswith("logfile_maxbytes")
    ]
    assert len(sizes) == 4  # of supervisord, of the program, and two of the event listener
    assert set(sizes) == {("10MB", "3")}
