"""Test how files that are left out are summarized."""

from __future__ import annotations

import os

import pytest

from backend.images.listing import NOT_SUPPORTED, name_fault, shown, summarize


def test_nothing_left_out_is_no_line() -> None:
    assert summarize({}, 5) == ""


def test_other_formats_are_counted_by_suffix_and_the_rest_is_named_by_reason() -> None:
    left_out = {f"{i}.HEIC": NOT_SUPPORTED for i in range(80)}
    left_out |= {f"{i}.txt": NOT_SUPPORTED for i in range(30)}
    left_out |= {"README": NOT_SUPPORTED, "b.jpg": "damaged", "a.jpg": "damaged", "c": "not a file"}
    assert summarize(left_out, 193) == (
        "114 of 307 files left out: 80 .heic, 30 .txt, 1 without a suffix "
        "(not a supported format); 2 (damaged): 'a.jpg', 'b.jpg'; 1 (not a file): 'c'"
    )


def test_no_more_than_twenty_files_are_named_for_a_reason() -> None:
    line = summarize({f"{i:03}.jpg": "damaged" for i in range(1000)}, 0)
    assert line.startswith("1,000 of 1,000 files left out: 1,000 (damaged): '000.jpg', '001.jpg'")
    assert line.endswith("'019.jpg', …")


def test_no_more_than_twenty_reasons_are_named() -> None:
    line = summarize({f"{i:03}.jpg": f"reason {i:03}" for i in range(1000)}, 0)
    assert line.endswith("1 (reason 019): '019.jpg'; …")


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("https://host/a.jpg?X-Amz-Signature=secret", "'https://host/a.jpg'"),
        ("https://me:secret@host/a.jpg", "'https://…@host/a.jpg'"),
        ("what?.jpg", "'what?.jpg'"),
        (os.fsdecode(b"caf\xe9\n.jpg"), r"'caf\udce9\n.jpg'"),
    ],
)
def test_a_location_is_printable_and_keeps_signatures_secret(location: str, named: str) -> None:
    assert shown(location) == named


def test_a_class_name_must_be_text() -> None:
    assert name_fault("猫 & co") == ""
    assert name_fault("a\tb") == "contains a control character"
    assert name_fault("caf\udce9") == "is not UTF-8"
