"""Check a label config that the user wrote before anything is created."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base.errors import LabelConfigError
from backend.labelstudio.label_config import label_config_xml
from scripts.setup.label_config import check_label_config, read_label_config

XML = label_config_xml(["cat", "dog"])


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        (XML.replace("</View>", ""), "not XML"),
        (XML.replace("dog", "frog"), r"\(cat, frog\) do not match the pool's classes \(dog, cat\)"),
        (XML.replace("$image", "$picture"), r'"\$picture".*write value="\$image"'),
    ],
)
def test_a_label_config_that_our_tasks_cannot_fill_is_refused_with_the_reason(
    xml: str, complaint: str
) -> None:
    with pytest.raises(LabelConfigError, match=complaint):
        check_label_config(xml, ["dog", "cat"])


def test_a_label_config_may_spell_and_arrange_the_classes_differently() -> None:
    check_label_config(XML.replace("dog", "Dog").replace("400px", "300px"), ["dog", "cat"])


def test_a_config_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.xml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.xml", "binary.xml"):
        with pytest.raises(LabelConfigError, match=f"{name} cannot be read"):
            read_label_config(tmp_path / name)
    (tmp_path / "my.xml").write_text(XML, encoding="utf-8")
    assert read_label_config(tmp_path / "my.xml") == XML
