"""Test the index of a pool on listings of a few images."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from backend.base.errors import PoolError
from backend.images.index import Index
from backend.images.listing import Listed, ListedSplit, Listing, make_listing
from backend.images.validation_sample import ValidationSample


def listed(
    name: str, split: ListedSplit = "", label: str = "", *, size: int = 5, modified: str = "1"
) -> Listed:
    """An image whose id is its name, in a folder that tells nothing."""
    return Listed(name, f"photos/{name}.jpg", size, modified, split, label)


def listing(*images: Listed | str) -> Listing:
    found = [listed(image) if isinstance(image, str) else image for image in images]
    labels = {image.label for image in found} - {""}
    return make_listing(found, {}, labels)


def index_of(*images: Listed | str, **contents: str) -> Index:
    """An index of these images, with the content of those that are decoded."""
    return Index.empty("/photos").merge(listing(*images)).index.record(contents, {})


def usable(index: Index) -> list[str]:
    return list(index.image_ids[index.is_usable])


def waiting(index: Index) -> list[str]:
    return list(index.image_ids[index.is_waiting])


def splits(index: Index) -> dict[str, str]:
    return dict(zip(index.image_ids, index.splits, strict=True))


def labels(index: Index) -> dict[str, str]:
    return dict(zip(index.image_ids, index.labels, strict=True))


# A first listing


def test_images_of_a_first_listing_wait_to_be_decoded_in_the_order_of_their_ids() -> None:
    merged = Index.empty("/photos").merge(listing("c", "a", "b"))
    assert merged.added == ("a", "b", "c")
    assert (merged.changed, merged.removed) == ((), ())
    assert list(merged.index.image_ids) == ["a", "b", "c"]
    assert waiting(merged.index) == ["a", "b", "c"]
    assert usable(merged.index) == []


def test_listed_splits_become_those_of_the_pool() -> None:
    index = index_of(
        listed("a", "train", "cat"),
        listed("b", "validation", "cat"),
        listed("c", "test", "dog"),
        listed("d"),
    )
    assert splits(index) == {"a": "pool", "b": "validation", "c": "test", "d": "pool"}
    assert labels(index) == {"a": "cat", "b": "cat", "c": "dog", "d": ""}
    assert index.classes == ("cat", "dog")


def test_decoded_images_count_and_unusable_ones_neither_count_nor_wait() -> None:
    index = index_of("a", "b", "c").record({"a": "00"}, {"b": "the image is damaged"})
    assert usable(index) == ["a"]
    assert waiting(index) == ["c"]
    [entry] = index.entries(index.rows(["b"]))
    assert (entry.image_id, entry.location) == ("b", "photos/b.jpg")
    assert (entry.content, entry.left_out) == ("", "the image is damaged")


def test_an_unknown_id_is_named() -> None:
    assert list(index_of("a", "b").rows(["b", "a"])) == [1, 0]
    for unknown in ("0", "aa", "z"):
        with pytest.raises(PoolError, match=f"no image '{unknown}' in the index of /photos"):
            index_of("a", "b").rows(["a", unknown])


# A source that changes


def test_a_listing_without_changes_changes_nothing() -> None:
    before = index_of("a", "b", a="00", b="01")
    merged = before.merge(listing("a", "b"))
    assert (merged.added, merged.changed, merged.removed) == ((), (), ())
    assert merged.index.table.equals(before.table)


def test_added_images_wait_and_removed_ones_do_not_count_until_they_are_back() -> None:
    merged = index_of("a", "b", a="00", b="01").merge(listing("b", "c"))
    assert (merged.added, merged.changed, merged.removed) == (("c",), (), ("a",))
    assert usable(merged.index) == ["b"]
    assert waiting(merged.index) == ["c"]

    again = merged.index.merge(listing("b", "c"))
    assert (again.added, again.changed, again.removed) == ((), (), ())

    back = again.index.merge(listing("a", "b", "c"))
    assert (back.added, back.removed) == (("a",), ())
    assert usable(back.index) == ["a", "b"]


@pytest.mark.parametrize("now", [listed("a", size=6), listed("a", modified="2")])
def test_an_image_that_changed_is_decoded_again_and_counts_meanwhile(now: Listed) -> None:
    merged = index_of("a", "b", a="00", b="01").merge(listing(now, "b"))
    assert (merged.added, merged.changed, merged.removed) == ((), ("a",), ())
    assert waiting(merged.index) == ["a"]
    assert usable(merged.index) == ["a", "b"]
    assert waiting(merged.index.merge(listing(now, "b")).index) == ["a"]
    decoded = merged.index.record({"a": "02"}, {})
    assert waiting(decoded) == []
    assert usable(decoded) == ["a", "b"]
    assert usable(merged.index.record({}, {"a": "damaged"})) == ["b"]


def test_a_left_out_image_is_tried_again_once_it_changes() -> None:
    index = index_of("a", "b").record({"b": "00"}, {"a": "damaged"})
    assert waiting(index.merge(listing("a", "b")).index) == []
    changed = index.merge(listing(listed("a", modified="2"), "b"))
    assert changed.changed == ("a",)
    assert waiting(changed.index) == ["a"]


def test_an_unknown_size_or_time_is_no_change() -> None:
    unknown = listed("a", size=-1, modified="")
    assert index_of(unknown, a="00").merge(listing("a")).changed == ()
    assert index_of("a", a="00").merge(listing(unknown)).changed == ()


def test_no_image_enters_or_leaves_the_validation_split_later() -> None:
    index = index_of(listed("a", "train", "cat"), listed("b", "train", "cat")).hold_out(["a"])
    later = index.merge(
        listing(listed("b", "validation", "cat"), listed("c", "validation", "cat"))
    ).index
    back = later.merge(listing(listed("a", "test", "cat"), "b", listed("d", "test", "cat"))).index
    expected = {"a": "validation", "b": "pool", "c": "pool"}
    assert splits(later) == expected
    assert splits(back) == {**expected, "d": "test"}


def test_labels_follow_the_source_and_those_of_removed_images_stay() -> None:
    index = index_of(listed("a", label="cat"), listed("b", label="dog"))
    merged = index.merge(listing(listed("a", label="cow"))).index
    assert labels(merged) == {"a": "cow", "b": "dog"}
    assert merged.classes == ("cow",)


def test_a_source_without_any_image_changes_nothing() -> None:
    with pytest.raises(PoolError, match=r"/photos no longer contains images: is the disk mounted"):
        index_of("a").merge(Listing((), {}, ()))


# Copies


def test_the_first_path_of_copies_counts_whatever_the_order_of_their_ids() -> None:
    first, second = Listed("z", "a/1.jpg"), Listed("y", "b/1.jpg")
    index = index_of(first, second, "c", z="00", y="00", c="01")
    assert usable(index) == ["c", "z"]
    assert [index.canonical(i) for i in ("y", "z", "c")] == ["z", "z", "c"]


def test_an_image_that_counts_already_stays_when_a_copy_is_found() -> None:
    index = index_of("a", "b", b="00").record({"a": "00"}, {})
    assert usable(index) == ["b"]
    assert index.canonical("a") == "b"


def test_a_renamed_image_counts_for_its_old_name() -> None:
    index = index_of("a", "b", a="00", b="01").merge(listing("b", "c")).index
    renamed = index.record({"c": "00"}, {})
    assert usable(renamed) == ["b", "c"]
    assert renamed.canonical("a") == "c"


def test_a_renamed_validation_image_stays_in_the_validation_split() -> None:
    index = index_of("a", "b", a="00", b="01").hold_out(["a"])
    renamed = index.merge(listing("b", "c")).index.record({"c": "00"}, {})
    assert splits(renamed) == {"a": "validation", "b": "pool", "c": "validation"}
    assert usable(renamed) == ["b", "c"]


def test_a_copy_of_a_held_out_image_is_not_in_the_pool() -> None:
    train, test = Listed("a", "loose.jpg"), Listed("b", "test/1.jpg", split="test")
    index = index_of(train, test, a="00", b="00")
    assert usable(index) == ["b"]
    assert index.canonical("a") == "b"


def test_a_copy_counts_again_once_its_content_changes() -> None:
    index = index_of("a", "b", a="00", b="00")
    changed = index.merge(listing("a", listed("b", size=6))).index
    assert usable(changed) == ["a"]
    assert usable(changed.record({"b": "01"}, {})) == ["a", "b"]


def test_copies_share_the_one_label_that_is_known() -> None:
    index = index_of(listed("a"), listed("b", label="cat"), "c", a="00", b="00", c="01")
    assert labels(index) == {"a": "cat", "b": "cat", "c": ""}


def test_copies_whose_labels_contradict_each_other_are_named_and_have_no_label(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cat, dog = listed("a", label="cat"), listed("b", label="dog")
    with caplog.at_level(logging.WARNING):
        index = index_of(cat, dog, "c", a="00", b="00", c="01")
    assert labels(index) == {"a": "", "b": "", "c": ""}
    assert "'photos/a.jpg', 'photos/b.jpg'" in caplog.text
    caplog.clear()
    again = index.merge(listing(cat, dog, "c")).index.record({"c": "02"}, {})
    assert caplog.text == ""  # once is enough
    assert labels(again.merge(listing(cat, listed("b", label="cat"))).index)["a"] == "cat"


def test_an_image_that_moves_to_another_class_has_the_new_one() -> None:
    index = index_of(listed("a", label="cat"), "c", a="00")
    moved = index.merge(listing(listed("b", label="dog"), "c")).index.record({"b": "00"}, {})
    assert labels(moved) == {"a": "dog", "b": "dog", "c": ""}


# A validation sample

NAMES = [f"image-{number:02d}" for number in range(50)]


def sampled(index: Index) -> list[str]:
    return [name for name, split in splits(index).items() if split == "validation"]


def test_a_fifth_of_the_pool_is_drawn_and_listed_validation_images_are_drawn_like_all_others() -> (
    None
):
    first = listing(
        *(listed(name, "validation", "cat") for name in NAMES[:25]),
        *(listed(name, "train", "dog") for name in NAMES[25:]),
        listed("test", "test", "cat"),
    )
    index = Index.empty("/photos").merge(first).index.draw_sample(0, 30)
    assert len(sampled(index)) == 10
    assert splits(index)["test"] == "test"
    assert index.sample is not None
    assert sorted(index.sample.choose(NAMES)) == sampled(index)


def test_new_images_join_the_sample_if_the_draw_chooses_them_and_none_leaves_it() -> None:
    before = index_of(*NAMES).draw_sample(0, 30)
    assert before.sample is not None
    more = [f"new-{number}" for number in range(50)]
    after = before.merge(listing(*NAMES[:25], *more, listed("test", "test", "cat"))).index
    assert set(sampled(before)) < set(sampled(after))
    joined = set(sampled(after)) - set(sampled(before))
    assert joined == set(before.sample.choose(more))
    assert 0 < len(joined) < 50
    assert splits(after)["test"] == "test"
    assert after.sample == before.sample


def test_images_that_were_queried_and_their_copies_stay_in_the_pool() -> None:
    contents = {name: name for name in NAMES} | {"image-00": "same", "image-01": "same"}
    queried = NAMES[1:30]  # image-01 is a copy of image-00
    index = index_of(*NAMES, **contents).draw_sample(0, 1000, queried)
    assert len(sampled(index)) == 4  # a fifth of 20
    assert not set(sampled(index)) & {"image-00", *queried}


@pytest.mark.parametrize("first", ["annotated", "copy", "both"])
def test_a_copy_of_an_image_that_was_exempt_before_it_was_decoded_stays_in_the_pool(
    tmp_path: Path, first: str
) -> None:
    """Otherwise, a label that was given before attaching would neither train nor validate."""
    drawn = index_of(*NAMES).draw_sample(0, 30)
    [copy, *_] = sampled(drawn)
    annotated = next(name for name in NAMES if name not in sampled(drawn))
    drawn = index_of(*NAMES).draw_sample(0, 30, [annotated])
    assert copy in sampled(drawn)
    drawn.write(tmp_path / "pool.parquet")
    index = Index.read(tmp_path / "pool.parquet")
    assert index is not None
    together = {
        "annotated": [[annotated], [copy]],
        "copy": [[copy], [annotated]],
        "both": [[annotated, copy]],
    }
    for names in together[first]:
        index = index.record(dict.fromkeys(names, "00"), {})
    assert index.canonical(copy) == annotated or index.canonical(annotated) == copy
    assert {splits(index)[annotated], splits(index)[copy]} == {"pool"}


def test_a_mask_of_images_ignores_unknown_ids() -> None:
    index = index_of(*NAMES)
    assert index.mask(["image-03", "image-01", "unknown"]).nonzero()[0].tolist() == [1, 3]
    assert not index.mask([]).any()


def test_removed_and_damaged_images_are_not_drawn() -> None:
    index = index_of(*NAMES).record({}, dict.fromkeys(NAMES[:20], "damaged"))
    index = index.merge(listing(*NAMES[:40])).index.draw_sample(0, 30)
    assert len(sampled(index)) == 4  # a fifth of 20
    assert set(sampled(index)) <= set(NAMES[20:40])


def test_too_few_images_draw_no_sample() -> None:
    assert index_of("a", "b", "c", "d").draw_sample(0, 30).sample is None


def sample_of(*chosen: str, **contents: str) -> Index:
    """An index of a and b, whose sample holds the chosen images."""
    index = index_of("a", "b").hold_out(chosen)
    return replace(index, sample=ValidationSample(0, "")).record(contents, {})


def test_a_copy_of_a_sampled_image_joins_the_sample() -> None:
    index = sample_of("b", b="00").record({"a": "00"}, {})
    assert usable(index) == ["b"]
    assert splits(index)[index.canonical("a")] == "validation"


def test_a_sampled_copy_of_an_image_that_counted_in_the_pool_stays_in_the_pool() -> None:
    index = sample_of("b", a="00").record({"b": "00"}, {})
    assert usable(index) == ["a"]
    assert splits(index)["a"] == "pool"
    assert index.canonical("b") == "a"
    moved = index.merge(listing("b")).index
    assert usable(moved) == ["b"]
    assert splits(moved)["b"] == "pool"


def test_a_copy_stays_where_it_belongs_if_the_first_image_changes() -> None:
    """Neither are the pixels of a training image sampled, nor those of the sample queried."""
    trained = sample_of("b", a="00").record({"b": "00"}, {})  # b was drawn, but copies a
    assert splits(trained.record({"a": "01"}, {})) == {"a": "pool", "b": "pool"}
    validated = sample_of("b", b="00").record({"a": "00"}, {})  # a copies b of the sample
    changed = validated.record({"b": "01"}, {})
    assert splits(changed) == {"a": "validation", "b": "validation"}


def test_of_copies_that_are_decoded_together_the_sampled_one_counts() -> None:
    index = sample_of("b", a="00", b="00")
    assert usable(index) == ["b"]
    assert splits(index)["b"] == "validation"


def test_the_sample_is_kept_in_the_file(tmp_path: Path) -> None:
    index = index_of(*NAMES).draw_sample(7, 30)
    index.write(tmp_path / "pool.parquet")
    found = Index.read(tmp_path / "pool.parquet")
    assert found is not None
    assert found.sample == index.sample
    assert found.sample is not None
    assert found.sample.seed == 7


# The file


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    index = index_of(listed("a", "train", "cat"), listed("b", label="猫"), a="00")
    assert Index.read(tmp_path / "p1/pool.parquet") is None
    index.write(tmp_path / "p1/pool.parquet")
    index.record({"b": "01"}, {}).write(tmp_path / "p1/pool.parquet")

    found = Index.read(tmp_path / "p1/pool.parquet")

    assert found is not None
    assert (found.source, found.classes) == ("/photos", ("cat", "猫"))
    assert list(found.entries(np.arange(2))) == list(
        index.record({"b": "01"}, {}).entries(np.arange(2))
    )
    assert [path.name for path in (tmp_path / "p1").iterdir()] == ["pool.parquet"]


@pytest.mark.parametrize("location", [os.fsdecode(b"caf\xe9/1.jpg"), "quoted:1%41.jpg", "猫 1.jpg"])
def test_paths_of_any_bytes_are_kept(tmp_path: Path, location: str) -> None:
    index_of(Listed("a", location)).write(tmp_path / "pool.parquet")
    found = Index.read(tmp_path / "pool.parquet")
    assert found is not None
    assert [entry.location for entry in found.entries(np.arange(1))] == [location]


def test_a_damaged_index_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "pool.parquet"
    index_of("a").write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PoolError, match=r"pool.parquet is damaged \(.*restore it from a backup"):
        Index.read(path)


def test_an_index_of_a_later_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool.parquet"
    index_of("a").write(path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"format": b"3"}), path)
    with pytest.raises(PoolError, match="has format 3, but this release reads 1 and 2"):
        Index.read(path)


def test_an_index_that_cannot_be_written_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "p1").write_text("a file")
    with pytest.raises(PoolError, match=r"p1/pool.parquet cannot be written \("):
        index_of("a").write(tmp_path / "p1/pool.parquet")
