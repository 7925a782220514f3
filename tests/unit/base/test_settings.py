"""Settings: read once, checked, and explained when wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend.base.errors import SettingsError
from backend.base.settings import AdaptSetting, GoalName, Settings, load_settings

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, field in Settings.model_fields.items():
        monkeypatch.delenv((field.alias or name).upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_need_no_environment() -> None:
    settings = load_settings()
    assert (settings.pool, settings.batch_size, settings.retrain_after) == ("auto", 20, 20)
    assert (settings.retrain_wait_s, settings.keep_versions) == (60, 20)


def test_the_environment_wins_over_the_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("BATCH_SIZE=7\nRETRAIN_WAIT=5\n")
    monkeypatch.setenv("BATCH_SIZE", "9")
    settings = load_settings()
    assert (settings.batch_size, settings.retrain_wait_s) == (9, 5)


def test_the_local_stacks_secrets_win_over_those_made_for_compose(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WEBHOOK_SECRET=compose\nBATCH_SIZE=7\n")
    (tmp_path / "var").mkdir()
    (tmp_path / "var/stack.env").write_text("WEBHOOK_SECRET='local'\n")
    settings = load_settings()
    assert (settings.webhook_secret.get_secret_value(), settings.batch_size) == ("local", 7)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("BATCH_SIZE", "0", "greater than or equal to 1"),
        ("BATCH_SIZE", "many", "valid integer"),
        ("KEEP_VERSIONS", "-1", "greater than or equal to 0"),
        ("STRATEGY", "guess", "'typiclust', 'k_center' or 'random'"),
        ("IMAGE_SIZE", "33", "multiple of 8"),
        ("IMAGE_HOSTS", "https://images.example.org", "without https:// and without a path"),
        ("IMAGE_HOSTS", "images.example.org/photos", "without https:// and without a path"),
        ("IMAGE_HOSTS", "images.example.org,", "'' is not a host"),
        ("IMAGE_HOSTS", "me@images.example.org", "'me@images.example.org' is not a host"),
        ("CLASSES", "cat", "at least two classes"),
        ("CLASSES", "cat,,dog", "at least two classes"),
        ("CLASSES", "cat,dog,Cat", "more than once: cat, Cat"),
        ("RETRAIN_WAIT", "-1", "greater than or equal to 0"),
        ("LABEL_STUDIO_URL", "localhost:8080", "http://"),
        ("BLIND", "perhaps", "boolean"),
        ("ADAPT", "on", "must be auto, off, or a number of minutes above 0, up to 1440"),
        ("ADAPT", "0", "a number of minutes above 0"),
        ("ADAPT", "1441", "up to 1440"),
        ("ADAPT", "nan", "up to 1440"),
    ],
)
def test_a_bad_value_is_named_with_its_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"{name}='{value}'" in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("ray://head:10001", "name the cluster's head without ray:// and with its own port"),
        ("head", "must be auto, host:port"),
        ("head:99999", "must be auto, host:port"),
        ("local", "must be auto, host:port"),
        ("http://head:6379", "must be auto, host:port"),
    ],
)
def test_an_address_that_is_not_a_clusters_is_refused_only_if_it_is_used(
    monkeypatch: pytest.MonkeyPatch, address: str, hint: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert load_settings().ray_address == address  # Ray's own tools may need it
    monkeypatch.setenv("SCALE", "ray")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"RAY_ADDRESS='{address}': " in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize("address", ["", "auto", "head:6379", "10.0.0.2:6379", "[fd00::2]:6379"])
def test_a_cluster_is_named_by_auto_by_its_head_or_not_at_all(address: str) -> None:
    assert load_settings(scale="ray", ray_address=address).ray_address == address


def test_image_hosts_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().image_hosts == ()
    monkeypatch.setenv("IMAGE_HOSTS", "Images.example.org, 127.0.0.1:8000,[::1]:80")
    assert load_settings().image_hosts == ("images.example.org", "127.0.0.1:8000", "[::1]:80")


@pytest.mark.parametrize(
    ("value", "expected"), [("auto", "auto"), ("off", "off"), (" 30", 30.0), ("0.5", 0.5)]
)
def test_adapting_is_automatic_off_or_takes_a_number_of_minutes(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: AdaptSetting
) -> None:
    assert load_settings().adapt == "auto"
    monkeypatch.setenv("ADAPT", value)
    assert load_settings().adapt == expected


def test_classes_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().classes == ()
    monkeypatch.setenv("CLASSES", "cat, polar bear ,unsure")
    assert load_settings().classes == ("cat", "polar bear", "unsure")


def test_a_class_with_control_characters_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"cannot be shown: 'd\\x07g'"):
        load_settings(classes="cat,d\x07g")


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "0")
    monkeypatch.setenv("SEED", "-1")
    with pytest.raises(SettingsError, match=r"(?s)SEED.*BATCH_SIZE|BATCH_SIZE.*SEED"):
        load_settings()


def test_a_bad_secret_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "hunter2")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "REDIS_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_people_who_label_blind_get_no_hints() -> None:
    assert load_settings(hints=True).shows_hints
    assert not load_settings(hints=True, blind=True).shows_hints
    assert not load_settings().shows_hints


def test_secrets_do_not_show_in_print() -> None:
    assert "hunter2" not in repr(load_settings(webhook_secret="hunter2"))


def test_require_names_every_missing_setting() -> None:
    with pytest.raises(SettingsError, match="LABEL_STUDIO_API_KEY, WEBHOOK_SECRET"):
        load_settings().require("label_studio_api_key", "webhook_secret", "backend_user")


def test_every_setting_is_documented_and_no_other() -> None:
    documented = set(re.findall(r"^#? ?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))
    settings = {(field.alias or name).upper() for name, field in Settings.model_fields.items()}
    compose = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert documented == settings | compose | {"REDIS_PORT"}  # the last is for `make up` alone


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described_in_full_sentences(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")


@pytest.mark.parametrize(
    ("goal", "is_finishing", "strategy"),
    [
        ("learn", False, "margin"),
        ("learn", True, "margin"),
        ("finish", False, "margin"),
        ("finish", True, "least_confidence"),
    ],
)
def test_goal_finish_follows_the_confidence_once_the_model_may_label_the_rest(
    goal: GoalName, is_finishing: bool, strategy: str
) -> None:
    settings = Settings.model_construct(strategy="margin", goal=goal)
    assert settings.strategy_in(None, is_finishing=is_finishing) == strategy


def test_a_project_keeps_its_strategy_unless_the_setting_says_otherwise() -> None:
    unset, margin = load_settings(_env_file=None), load_settings(_env_file=None, strategy="margin")
    assert unset.strategy == "auto"
    assert unset.strategy_in("auto", is_finishing=False) == "auto"
    assert unset.strategy_in("entropy", is_finishing=False) == "entropy"
    assert unset.strategy_in(None, is_finishing=False) == "least_confidence"  # an older project
    assert margin.strategy_in("auto", is_finishing=False) == "margin"
