"""Check which .env a restored stack gets; tests/compose backs up and restores a real stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.compose import backup, env


@pytest.fixture(autouse=True)
def _clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh clone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(env, "choose_profile", lambda: "cpu")


def test_a_backup_of_the_previous_release_keeps_its_secrets_and_gets_the_new_ones(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "kept.env"
    env.write_missing(kept)
    lines = [line for line in kept.read_text().splitlines(True) if "CONTROL_SECRET" not in line]
    kept.write_text("".join(lines))
    backup._adopt_env(kept)
    after = env.ENV.read_text()
    assert after.startswith("".join(lines))
    assert set(env.read_env(env.ENV)) == set(env.MAKERS)
    assert env.ENV.stat().st_mode & 0o777 == 0o600


def test_the_env_file_of_a_backup_is_restored_unchanged(tmp_path: Path) -> None:
    kept = tmp_path / "kept.env"
    env.write_missing(kept)
    backup._adopt_env(kept)
    assert env.ENV.read_text() == kept.read_text()
