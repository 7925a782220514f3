"""What set-up checks before it starts or creates anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.base.errors import (
    LabelConfigError,
    PoolError,
    SettingsError,
    TightloopError,
    WeightsError,
)
from backend.base.settings import Settings
from backend.images.validation_sample import KNOWN, Validation
from backend.labelstudio.label_config import label_config_xml
from backend.store.project_record import ProjectRecord, project_root, write_record
from scripts.setup.checks import Plan, choose_classes, make_plan
from scripts.setup.request import Request
from tests.unit.images.image_folders import make_folder, save_image
from tests.unit.store.test_registry import record


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of twelve unlabeled images."""
    for number in range(12):
        save_image(tmp_path / f"photos/trip-{number % 3}/{number}.png", (number, 0, 0))
    return tmp_path / "photos"


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Twenty labeled images of each of the classes cat and dog."""
    return make_folder(tmp_path / "birds")


def plan(tmp_path: Path, *, may_change: bool = False, **given: Any) -> Plan:
    settings = Settings.model_validate({"model_dir": tmp_path / "models", **given})
    return make_plan(Request.from_settings(settings, may_change=may_change))


def keep(tmp_path: Path, project_id: int = 7, **changes: Any) -> ProjectRecord:
    """Record a project as set-up does."""
    kept = record(project_id).model_copy(update={"seed_labels": 500, **changes})
    write_record(project_root(tmp_path / "models", project_id), kept)
    return kept


def test_a_new_project_takes_its_classes_from_classes_then_the_label_config_then_the_pool(
    tmp_path: Path, photos: Path, birds: Path
) -> None:
    config = tmp_path / "my.xml"
    config.write_text(label_config_xml(["dog", "cat", "unsure"]))
    assert plan(tmp_path, pool=str(birds)).classes == ("cat", "dog")
    assert plan(tmp_path, pool=str(birds), label_config=config).classes == ("dog", "cat", "unsure")
    assert plan(tmp_path, pool=str(photos), label_config=config).label_config == config.read_text()
    assert plan(tmp_path, pool=str(photos), classes="b, a").classes == ("b", "a")
    assert plan(tmp_path).classes == ()  # those of the data set that will be downloaded


def test_unlabeled_images_without_classes_say_what_to_give(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(SettingsError, match=r"CLASSES=cat,dog,unsure or LABEL_CONFIG=my\.xml"):
        plan(tmp_path, pool=str(photos))


def test_one_folder_of_train_names_no_classes(tmp_path: Path) -> None:
    for number in range(12):
        save_image(tmp_path / f"one/train/cat/{number}.png")
    with pytest.raises(SettingsError, match="two or more folders train/<class>/"):
        plan(tmp_path, pool=str(tmp_path / "one"))


def test_three_images_are_too_few(tmp_path: Path) -> None:
    for number in range(3):
        save_image(tmp_path / f"few/{number}.png")
    (tmp_path / "few/notes.txt").touch()
    with pytest.raises(PoolError, match=r"contains 3 images: .* at least 10 .*1 of 4 files left"):
        plan(tmp_path, pool=str(tmp_path / "few"), classes="a,b")


def test_a_missing_folder_or_file_of_weights_is_named(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(PoolError, match="POOL=no/such/folder"):
        plan(tmp_path, pool="no/such/folder", classes="a,b")
    with pytest.raises(WeightsError, match=r"WEIGHTS=gone\.pth: no such file"):
        plan(tmp_path, pool=str(photos), classes="a,b", weights="gone.pth")


def test_classes_that_the_images_are_labeled_with_must_not_lack(
    tmp_path: Path, birds: Path
) -> None:
    with pytest.raises(SettingsError, match="cat, bird lack dog, which"):
        plan(tmp_path, pool=str(birds), classes="cat,bird")
    assert choose_classes(["Dog", "bird", "CAT"], ["cat", "dog"]) == ("dog", "bird", "cat")


def test_a_label_config_that_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, photos: Path
) -> None:
    config = tmp_path / "my.xml"
    good = label_config_xml(["a", "b"])
    for xml, complaint in (
        (good.replace("</View>", ""), "not XML"),
        (good.replace("$image", "$photo"), r'write value="\$image"'),
        (good, r"\(a, b\) differ from CLASSES=a,c"),
    ):
        config.write_text(xml)
        with pytest.raises(LabelConfigError, match=complaint):
            plan(tmp_path, pool=str(photos), label_config=config, classes="a,c")
    with pytest.raises(LabelConfigError, match="cannot be read"):
        plan(tmp_path, pool=str(photos), label_config=tmp_path / "gone.xml")


def test_more_seed_labels_than_known_labels_are_reduced_and_said(
    tmp_path: Path, birds: Path, photos: Path
) -> None:
    [note] = plan(tmp_path, pool=str(birds), seed_labels=500).notes
    assert note.startswith("SEED_LABELS=500, but only 40 images have known labels")
    assert plan(tmp_path, pool=str(birds), seed_labels=40).notes == ()
    assert plan(tmp_path, pool=str(photos), classes="a,b").notes == ()  # 500 was not asked for


def test_without_any_setting_the_first_project_goes_on_as_it_was_set_up(tmp_path: Path) -> None:
    first = keep(tmp_path, 7, title="Photos", seed=3, seed_labels=20)
    keep(tmp_path, 9, title="Birds", seed=4)
    going_on = plan(tmp_path)
    assert going_on.record == first
    assert (going_on.title, going_on.pool, going_on.seed) == ("Photos", "digits", 3)
    assert (going_on.seed_labels, going_on.classes) == (20, first.classes)
    assert plan(tmp_path, project_title="Birds").seed == 4


def test_auto_keeps_what_it_chose_and_equal_values_are_no_contradiction(tmp_path: Path) -> None:
    kept = keep(tmp_path, weights="none")
    same = {"pool": "digits", "weights": "none", "seed": 0, "seed_labels": 500}
    for given in ({"pool": "auto", "weights": "auto"}, same, {"classes": "dog,cat"}):
        again = plan(tmp_path, **given)
        assert (again.pool, again.weights) == (kept.pool, kept.weights)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed_labels": 100}, "SEED_LABELS=100 contradicts SEED_LABELS=500"),
        ({"pool": "cifar10"}, "POOL=cifar10 contradicts POOL=digits"),
        ({"weights": "imagenet"}, "WEIGHTS=imagenet contradicts WEIGHTS=none"),
        ({"classes": "cat,bird"}, "CLASSES=cat,bird contradicts CLASSES=cat,dog"),
    ],
)
def test_a_contradiction_names_both_values_and_the_ways_out_and_counts_with_change(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    keep(tmp_path)
    with pytest.raises(SettingsError) as caught:
        plan(tmp_path, **given)
    for part in (said, '"T" was set up', "new PROJECT_TITLE", "setup_project --change"):
        assert part in str(caught.value)
    changed = plan(tmp_path, may_change=True, **given)
    assert changed.has_new_pool == ("pool" in given)
    assert changed.has_new_classes == ("classes" in given)
    assert changed.seed_labels == given.get("seed_labels", 500)


def test_a_seed_cannot_change_because_it_drew_the_validation_images(tmp_path: Path) -> None:
    keep(tmp_path)
    with pytest.raises(SettingsError, match="SEED=1 contradicts SEED=0") as caught:
        plan(tmp_path, may_change=True, seed=1)
    assert "validation images" in str(caught.value)
    assert "--change" not in str(caught.value)


def test_a_label_config_with_other_choices_contradicts_the_classes(tmp_path: Path) -> None:
    keep(tmp_path)
    config = tmp_path / "my.xml"
    config.write_text(label_config_xml(["dog", "frog"]))
    with pytest.raises(SettingsError, match="CLASSES=dog,frog contradicts CLASSES=cat,dog"):
        plan(tmp_path, label_config=config)


def test_a_moved_folder_may_be_named_with_change(tmp_path: Path, birds: Path) -> None:
    keep(tmp_path, pool=str(birds))
    moved = birds.rename(tmp_path / "moved")
    with pytest.raises(PoolError, match="birds"):
        plan(tmp_path)
    changed = plan(tmp_path, may_change=True, pool=str(moved))
    assert changed.has_new_pool
    assert len(changed.offered) == 42


def test_a_record_of_an_earlier_release_accepts_any_seed_labels_but_asks_for_none(
    tmp_path: Path,
) -> None:
    keep(tmp_path, seed_labels=None)
    assert plan(tmp_path).seed_labels is None
    assert plan(tmp_path, seed_labels=30).seed_labels == 30


def test_a_misspelt_title_makes_no_second_project(tmp_path: Path, photos: Path) -> None:
    keep(tmp_path, title="Birds")
    with pytest.raises(SettingsError, match=r'called "Brids" \(known: Birds\).*POOL or --pool'):
        plan(tmp_path, project_title="Brids")
    second = plan(tmp_path, project_title="Photos", pool=str(photos), classes="a,b")
    assert second.record is None


def test_a_project_that_is_only_brought_up_to_date_is_never_created(tmp_path: Path) -> None:
    settings = Settings.model_validate({"model_dir": tmp_path / "models", "pool": "digits"})
    with pytest.raises(TightloopError, match='called "Gone"'):
        make_plan(Request.to_refresh(settings, "Gone"))


def test_classes_in_another_order_keep_the_recorded_order(tmp_path: Path) -> None:
    keep(tmp_path)
    assert plan(tmp_path, classes="dog,cat").classes == ("cat", "dog")


# Validation


def test_known_labels_validate_if_there_are_any_to_hold_out_and_otherwise_people(
    tmp_path: Path, photos: Path, birds: Path
) -> None:
    by_people = plan(tmp_path, pool=str(photos), classes="a,b")
    assert by_people.first_validation == Validation("people", 200)
    fewer = plan(tmp_path, pool=str(photos), classes="a,b", validation_labels=30)
    assert fewer.first_validation == Validation("people", 30)
    assert plan(tmp_path, pool=str(birds)).first_validation == KNOWN
    assert plan(tmp_path, pool=str(birds), validation="people").validation == "people"
    assert plan(tmp_path).first_validation == KNOWN
    assert plan(tmp_path, pool="digits", validation="people").validation == "people"


def test_known_validation_is_refused_if_nothing_can_be_held_out(
    tmp_path: Path, photos: Path
) -> None:
    with pytest.raises(SettingsError, match=r"no known labels to hold out.*VALIDATION=people"):
        plan(tmp_path, pool=str(photos), classes="a,b", validation="known")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"validation": "known"}, "VALIDATION=known contradicts VALIDATION=people"),
        ({"validation_labels": 60}, "VALIDATION_LABELS=60 contradicts VALIDATION_LABELS=50"),
    ],
)
def test_validation_cannot_change_even_with_change(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    keep(tmp_path, validation="people", validation_labels=50)
    with pytest.raises(SettingsError, match=said) as caught:
        plan(tmp_path, may_change=True, **given)
    assert "can never change" in str(caught.value)
    assert "set a new PROJECT_TITLE" in str(caught.value)
    for same in ({}, {"validation": "auto"}, {"validation": "people", "validation_labels": 50}):
        assert plan(tmp_path, **same).first_validation == Validation("people", 50)


def test_the_project_of_an_earlier_release_draws_no_sample_when_it_is_listed(
    tmp_path: Path,
) -> None:
    keep(tmp_path)
    assert plan(tmp_path).validation is None
    asked = plan(tmp_path, validation="people")
    assert (asked.validation, asked.first_validation) == ("people", KNOWN)
    keep(tmp_path, validation="known")
    assert plan(tmp_path, validation_labels=60).validation == "known"


def test_classes_that_were_given_before_others_joined_in_label_studio_still_fit(
    tmp_path: Path,
) -> None:
    everything = ("cat", "dog", "frog")
    keep(tmp_path, classes=everything, removed_classes=("dog",))
    for given in (("dog", "cat"), ("Frog", "cat"), everything):
        assert plan(tmp_path, classes=given).classes == everything
    with pytest.raises(SettingsError, match="CLASSES=cat,emu contradicts"):
        plan(tmp_path, classes=("cat", "emu"))
    assert plan(tmp_path, classes=("cat", "dog"), may_change=True).has_new_classes
