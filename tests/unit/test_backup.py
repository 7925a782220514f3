"""Backups without Docker: which .env a restored stack gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import backup, secrets


@pytest.fixture(autouse=True)
def _clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone in which nothing was done yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(secrets, "choose_profile", lambda: "cpu")


def test_a_backup_of_the_former_release_brings_its_secrets_and_gets_the_new_ones(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "kept.env"
    secrets.write_missing(kept)
    lines = [line for line in kept.read_text().splitlines(True) if "CONTROL_SECRET" not in line]
    kept.write_text("".join(lines))
    backup._take_env(kept)
    after = secrets.ENV.read_text()
    assert after.startswith("".join(lines))
    assert set(secrets.read_env(secrets.ENV)) == set(secrets.MAKERS)
    assert secrets.ENV.stat().st_mode & 0o777 == 0o600


def test_a_backup_of_this_release_brings_its_env_as_it_is(tmp_path: Path) -> None:
    kept = tmp_path / "kept.env"
    secrets.write_missing(kept)
    backup._take_env(kept)
    assert secrets.ENV.read_text() == kept.read_text()
