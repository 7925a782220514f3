"""Check the rows of projects that are small enough to follow by hand."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from backend.base.command_line import ROOT
from backend.base.labeling import DELETED, VALIDATION, Annotation, Task, TaskReading
from backend.images.digest import digest
from backend.images.index import Index
from backend.images.index_file import update_index
from backend.images.listing import Listed, make_listing
from backend.images.sources import find_source
from backend.images.validation_sample import Validation
from backend.labelstudio.rows import DIGEST
from backend.results.label_rows import LABEL_COLUMNS, read_label_rows
from backend.results.label_sources import open_sources
from backend.store import model_outputs
from backend.store.project_record import POOL_INDEX, change_record
from backend.store.registry import Registry
from tests.unit.images.image_folders import make_folder, save_image
from tests.unit.results.exporter import ADA, BO, CY, Exporter, set_up
from tests.unit.rounds.conftest import attached_record
from tests.unit.store.test_registry import meta, save, state_of


def test_a_row_says_what_people_chose_who_they_are_and_when(exporter: Exporter) -> None:
    exporter.ask("3.png", probs=(0.1, 0.9))
    exporter.annotate("3.png", "cat", ADA)
    exporter.annotate("3.png", "dog", BO)
    exporter.annotate("3.png", "dog", CY)
    row = exporter.row("3.png")
    assert (row.image_id, row.label, row.labeled_by) == (digest("3.png"), "dog", "people")
    assert (row.split, row.is_removed) == ("train", False)
    people = "ada@example.org;bo@example.org;cy@example.org"
    assert (row.annotations, row.annotators) == (3, people)
    assert row.annotated_at == datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)
    assert (row.asked_round, row.asked_version, row.asked_strategy) == (2, "r0001", "margin")
    assert row.label_probability == pytest.approx(0.9)  # by the version that queried the image
    assert (row.model_version, row.model_label, row.model_confidence) == (None, None, None)


def test_only_labeled_images_have_a_row_in_the_order_of_their_ids(exporter: Exporter) -> None:
    for path in ("8.png", "2.png", "5.png"):
        exporter.annotate(path, "cat")
    exporter.annotate("1.png", None, was_skipped=True)
    exporter.annotate("0.png", "horse")
    reading = exporter.read()
    assert [row.image for row in reading.rows] == sorted(("2.png", "5.png", "8.png"), key=digest)
    assert reading.left_out == {"skipped": 1, "unknown class": 1}


def test_the_probability_of_a_label_is_unknown_without_a_model(exporter: Exporter) -> None:
    exporter.annotate("3.png", "cat")
    row = exporter.row("3.png")
    assert row.label_probability is None
    assert (row.asked_round, row.asked_version, row.asked_strategy) == (None, None, None)


def test_ground_truth_and_labels_of_the_data_set_are_told_from_those_of_people(
    exporter: Exporter,
) -> None:
    exporter.annotate("1.png", "cat", ADA)
    exporter.annotate("1.png", "dog", BO, is_ground_truth=True)
    exporter.annotate("2.png", "cat", None)
    truth, seed = exporter.row("1.png"), exporter.row("2.png")
    assert (truth.label, truth.labeled_by, truth.label_probability) == ("dog", "ground truth", 1)
    assert (truth.annotations, truth.annotators) == (2, "ada@example.org;bo@example.org")
    assert (seed.label, seed.labeled_by, seed.label_probability) == ("cat", "data set", 1)
    assert (seed.annotations, seed.annotators, seed.annotated_at) == (0, "", None)


def test_annotators_without_an_account_are_named_by_their_number(exporter: Exporter) -> None:
    exporter.annotate("1.png", "cat", 99)
    exporter.annotate("1.png", "cat", DELETED)
    assert exporter.row("1.png").annotators == "person 99;deleted account"


def test_annotations_that_come_during_the_export_are_not_included(exporter: Exporter) -> None:
    exporter.annotate("1.png", "cat")
    with open_sources(exporter.settings, exporter.root) as sources:
        exporter.annotate("1.png", "dog", BO, is_ground_truth=True)
        exporter.annotate("2.png", "dog")
        [row] = read_label_rows(sources).rows
    assert row.label == "cat"
    assert exporter.images() == ["1.png", "2.png"]


def test_the_model_columns_are_those_of_the_version_in_service(exporter: Exporter) -> None:
    exporter.annotate("1.png", "cat")
    exporter.annotate("2.png", "cat")
    save(exporter.root, meta(1))
    probs = np.array([[0.25, 0.75]], np.float32)
    model_outputs.save_pool_probs(exporter.root, "r0001", [digest("1.png")], probs)
    Registry(exporter.root).promote("r0001")
    row = exporter.row("1.png")
    assert (row.model_version, row.model_label, row.model_confidence) == ("r0001", "dog", 0.75)
    assert exporter.row("2.png").model_label is None  # not scored yet


def test_an_image_without_saved_scores_is_scored_by_its_embedding(exporter: Exporter) -> None:
    exporter.annotate("1.png", "cat")
    version = meta(1, body_key="ab", framing="whole")
    state = {name: np.zeros_like(array) for name, array in state_of(version).items()}
    state["fc.bias"] = np.log([4.0, 1.0]).astype(np.float32)
    Registry(exporter.root).save(state, version)
    Registry(exporter.root).promote("r0001")
    folder = model_outputs.own_embeddings(exporter.root, "")
    width = state["fc.weight"].shape[1]
    pool_name = str(exporter.pool)
    store = model_outputs.embeddings_store(folder, "ab", version.view, pool_name, width)
    store.publish([store.write([digest("1.png")], np.ones((1, width), np.float16))])
    row = exporter.row("1.png")
    assert (row.model_label, row.model_confidence) == ("cat", 0.8)  # 4 : 1


def test_labels_are_exported_even_if_the_version_in_service_is_broken(exporter: Exporter) -> None:
    exporter.annotate("1.png", "cat")
    save(exporter.root, meta(1))
    Registry(exporter.root).promote("r0001")
    half = np.array([[0.5, 0.5]], np.float32)
    model_outputs.save_pool_probs(exporter.root, "r0001", [digest("1.png")], half)
    [shard] = (exporter.root / "r0001/pool").glob("*.parquet")
    shard.write_bytes(b"half a file")
    reading = exporter.read()
    assert [(row.label, row.model_label) for row in reading.rows] == [("cat", None)]
    assert "was damaged: its rows will be computed again" in reading.model_problem


def test_labels_by_the_model_are_marked_and_give_way_to_labels_by_people(
    exporter: Exporter,
) -> None:
    exporter.let_model_label({"1.png": ("dog", 0.97), "2.png": ("dog", 0.95)})
    exporter.annotate("2.png", "cat")
    by_model, by_ada = exporter.row("1.png"), exporter.row("2.png")
    assert (by_model.label, by_model.labeled_by, by_model.annotations) == ("dog", "model", 0)
    assert (by_model.model_version, by_model.model_confidence) == ("r0003", 0.97)
    assert by_model.label_probability == 0.97
    assert (by_ada.label, by_ada.labeled_by) == ("cat", "people")


def test_a_renamed_class_has_its_new_name_and_a_removed_class_gives_no_label(
    exporter: Exporter,
) -> None:
    exporter.let_model_label({"1.png": ("dog", 0.97), "2.png": ("cat", 0.95)})
    exporter.annotate("3.png", "dog")
    exporter.annotate("4.png", "cat")
    change_record(
        exporter.root,
        lambda record: record.model_copy(
            update={
                "classes": ("cat", "dog", "hound", "fox"),
                "removed_classes": ("cat", "dog"),
                "renamed_classes": (("dog", "hound"),),
            }
        ),
    )
    assert [(row.image, row.label) for row in exporter.read().rows] == [
        (path, "hound") for path in sorted(("1.png", "3.png"), key=digest)
    ]
    assert exporter.read().left_out == {"removed class": 1}


def test_held_out_images_with_known_labels_have_rows_that_name_their_split(
    tmp_path: Path,
) -> None:
    make_folder(tmp_path / "pool")
    exporter = set_up(tmp_path)
    held_out = {row.image for row in exporter.read().rows}
    queried = next(path for path in exporter.ids if path not in held_out)
    exporter.annotate(queried, "cat")
    rows = {row.image: row for row in exporter.read().rows}
    of_test, validation = (
        [row for row in rows.values() if row.split == split] for split in ("test", "validation")
    )
    assert {row.image: row.label for row in of_test} == {
        "test/cat/0.png": "cat",
        "test/dog/0.png": "dog",
    }
    assert len(validation) == 4  # a tenth of 40
    assert all(row.label in row.image for row in validation)
    assert {row.labeled_by for row in (*of_test, *validation)} == {"data set"}
    assert (rows[queried].split, rows[queried].labeled_by) == ("train", "people")


def test_validation_labels_by_people_name_their_split(tmp_path: Path) -> None:
    for i in range(50):
        save_image(tmp_path / f"pool/{i}.png", (i, 0, 0))
    exporter = set_up(tmp_path, Validation("people", 10))
    index = Index.read(exporter.root / POOL_INDEX)
    assert index is not None
    held_out = index.image_ids[index.splits == "validation"].tolist()
    first, second, third, *_ = [path for path, i in exporter.ids.items() if i in held_out]
    for path in (first, second, third):
        exporter.ask(path, VALIDATION, probs=())
    exporter.annotate(first, "cat", ADA)
    exporter.annotate(second, "cat", ADA, is_ground_truth=True)
    exporter.annotate(third, None, ADA, was_skipped=True)
    rows = {row.image: row for row in exporter.read().rows}
    assert {(row.split, row.asked_strategy) for row in rows.values()} == {
        ("validation", "validation")
    }
    assert {path: row.labeled_by for path, row in rows.items()} == {
        first: "people",
        second: "ground truth",
    }
    assert (rows[first].annotators, rows[first].label_probability) == ("ada@example.org", None)


def test_a_labeled_image_that_left_the_pool_keeps_its_row(exporter: Exporter) -> None:
    exporter.annotate("1.png", "cat")
    (exporter.pool / "1.png").unlink()
    source = find_source(str(exporter.pool), image_hosts=())
    path = exporter.root / POOL_INDEX
    update_index(source, path, exporter.settings.data_dir, 0, lambda *_: None)
    row = exporter.row("1.png")
    assert (row.label, row.is_removed) == ("cat", True)


def test_an_annotation_of_a_copy_labels_the_image_that_counts(tmp_path: Path) -> None:
    for i in range(5):
        save_image(tmp_path / f"pool/{i}.png", (i, 0, 0))
    save_image(tmp_path / "pool/copy.png", (1, 0, 0))
    exporter = set_up(tmp_path)
    exporter.ask("copy.png")
    exporter.annotate("copy.png", "cat")
    [row] = exporter.read().rows
    assert (row.image, row.asked_version) == ("1.png", "r0001")


def test_cifar10_and_digits_have_no_files_so_their_ids_name_the_images(tmp_path: Path) -> None:
    exporter = set_up(tmp_path, pool="digits", classes=tuple("0123456789"))
    with open_sources(exporter.settings, exporter.root) as sources:
        seed = min(sources.catalog.known_ids)
    exporter.annotate(seed, "3", None)
    rows = exporter.read().rows
    assert {row.split for row in rows} == {"train", "validation", "test"}
    assert all(row.image == row.image_id for row in rows)
    assert [row.image for row in rows if row.split == "train"] == [seed]


def test_images_of_an_attached_project_are_named_by_the_addresses_in_their_tasks(
    tmp_path: Path,
) -> None:
    for i in range(2):
        save_image(tmp_path / f"pool/{i}.png", (i, 0, 0))
    exporter = set_up(tmp_path)
    change_record(exporter.root, lambda _: attached_record(("cat", "dog")))
    listed = [Listed("ls-100", "100 https://example.org/cat.png")]  # before the others were created
    Index.empty("T").merge(make_listing(listed, {}, ())).index.write(exporter.root / POOL_INDEX)
    addresses = ["https://example.org/cat.png", "/data/upload/2.png", f"{DIGEST}0123"]
    for task_id, address in enumerate(addresses, 100):
        image_id = f"ls-{task_id}"
        task = Task(task_id, image_id, is_open=False, awaits_second_opinion=False)
        given = Annotation(task_id, task_id, image_id, ADA, "cat", False, "2026-01-01T00:00:00Z")
        exporter.store.record_tasks([TaskReading(task, "2026-01-01", (given,), None, address)], 0.0)
    assert [row.image for row in exporter.read().rows] == [*addresses[:2], "ls-102"]


def test_the_page_explains_every_column() -> None:
    page = (ROOT / "docs/your-results.md").read_text()
    section = page.partition("## Export the labels")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(LABEL_COLUMNS)
