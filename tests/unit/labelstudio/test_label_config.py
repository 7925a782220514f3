"""Write our label config, and accept or refuse those of others."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.base.errors import LabelConfigError
from backend.base.labeling import LabelConfig
from backend.labelstudio.label_config import (
    is_our_label_config,
    label_config_xml,
    parse_label_config,
)

IMAGE = '<Image name="image" value="$image"/>'
CHOICE = '<Choice value="cat"/><Choice value="dog"/>'
CHOICES = f'<Choices name="label" toName="image" choice="single-radio">{CHOICE}</Choices>'


def config(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


def test_a_label_config_gives_names_key_and_choices() -> None:
    xml = config('<Image name="pic" value="$photo"/>', CHOICES.replace('"image"', '"pic"'))
    assert parse_label_config(xml) == LabelConfig("label", "pic", "photo", ("cat", "dog"))


def test_choices_without_a_kind_are_single_choice_as_in_label_studio() -> None:
    xml = config(IMAGE, CHOICES.replace(' choice="single-radio"', ""))
    assert parse_label_config(xml).choices == ("cat", "dog")


def test_a_choice_is_known_by_its_alias_as_in_annotations() -> None:
    xml = config(IMAGE, CHOICES.replace('value="cat"', 'value="Cat (any)" alias="cat"'))
    assert parse_label_config(xml).choices == ("cat", "dog")


@pytest.mark.parametrize(
    ("xml", "complaint"),
    [
        ("", "not XML"),
        ("<View", "not XML"),
        ("<View/>", "0 Image and 0 Choices"),
        (config(IMAGE, IMAGE, CHOICES), "2 Image and 1 Choices"),
        (config(IMAGE, CHOICES, CHOICES), "1 Image and 2 Choices"),
        (config(IMAGE, CHOICES.replace("single-radio", "multiple")), "single-radio"),
        (config(IMAGE, CHOICES.replace('toName="image"', 'toName="text"')), "toName"),
        (config(IMAGE.replace("$image", "image"), CHOICES), "value"),
        (config(IMAGE, CHOICES.replace(CHOICE, "")), "at least two"),
        (config(IMAGE, CHOICES.replace('value="cat"', "")), "at least two"),
    ],
)
def test_an_unusable_label_config_is_refused_with_the_reason(xml: str, complaint: str) -> None:
    with pytest.raises(LabelConfigError, match=complaint):
        parse_label_config(xml)


# What XML 1.0 can carry in an attribute without changing it.
class_names = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co")), min_size=1, max_size=20
)


@given(st.lists(class_names, min_size=2, max_size=15, unique=True))
def test_our_label_config_holds_any_class_names(names: list[str]) -> None:
    assert parse_label_config(label_config_xml(names)) == LabelConfig(
        "label", "image", "image", tuple(names)
    )


def test_the_first_ten_choices_have_the_hotkeys_1_to_9_and_0() -> None:
    xml = label_config_xml([f"class {i}" for i in range(12)])
    assert '<Choice value="class 0" hotkey="1"/>' in xml
    assert '<Choice value="class 9" hotkey="0"/>' in xml
    assert '<Choice value="class 10"/>' in xml


def test_the_hint_is_read_from_the_task_and_changes_nothing_else() -> None:
    plain, hinting = (label_config_xml(["cat", "dog"], has_hint=h) for h in (False, True))
    assert "$hint" not in plain
    assert hinting.count('<Header value="$hint"') == 1
    assert parse_label_config(hinting) == parse_label_config(plain)


def test_more_choices_than_hotkeys_get_a_filter_and_scroll_in_their_own_box() -> None:
    for is_large in (False, True):
        few, many = (
            label_config_xml([f"class {i}" for i in range(count)], is_large=is_large)
            for count in (10, 11)
        )
        assert "<Filter" not in few
        assert "overflow: auto" not in few
        assert '<Filter name="filter" toName="label" minlength="0"' in many
        assert "overflow: auto" in many
        assert len(parse_label_config(many).choices) == 11


def test_many_choices_beside_a_small_image_are_laid_out_in_columns() -> None:
    assert "columns" not in label_config_xml([f"class {i}" for i in range(20)])
    assert "columns: 160px" in label_config_xml([f"class {i}" for i in range(21)])
    assert "columns" not in label_config_xml([f"class {i}" for i in range(21)], is_large=True)


def test_large_images_use_the_height_of_the_screen_and_can_be_zoomed() -> None:
    plain, hinting = (
        label_config_xml(["cat", "dog"], has_hint=h, is_large=True) for h in (False, True)
    )
    assert 'maxHeight="calc(100vh - 136px)" zoom="true" zoomControl="true"' in plain
    assert 'maxHeight="calc(100vh - 192px)"' in hinting
    assert "400px" not in plain


def test_our_label_config_is_recognised_until_it_is_edited() -> None:
    for count, has_hint, is_large in product((2, 30), (False, True), (False, True)):
        classes = [f"a < {i}" for i in range(count)]
        xml = label_config_xml(classes, has_hint=has_hint, is_large=is_large)
        assert is_our_label_config(xml.strip())  # Label Studio strips it
        assert not is_our_label_config(xml.replace("gap: 32px", "gap: 8px"))
    assert not is_our_label_config(config(IMAGE, CHOICES))


def test_only_a_label_config_that_reads_one_key_takes_uploads() -> None:
    text = '<Text name="text" value="$hint"/>'
    assert parse_label_config(label_config_xml(["cat", "dog"], has_hint=True)).takes_uploads
    assert not parse_label_config(config(IMAGE, CHOICES, text)).takes_uploads


WITHOUT_SMOOTHING = """\
<View style="display: flex; gap: 32px; align-items: flex-start">
  <View style="flex: 0 0 400px">
    <Image name="image" value="$image" smoothing="false" width="400px" maxWidth="400px" \
maxHeight="400px" zoom="false" zoomControl="false" rotateControl="false"/>HINT
  </View>
  <View style="flex: 1">
    <Choices name="label" toName="image" choice="single-radio" required="true" showInline="false">
      <Choice value="cat" hotkey="1"/>
      <Choice value="dog" hotkey="2"/>
    </Choices>
  </View>
</View>
"""
HINT = """
    <Header value="$hint" style="margin: 8px 0; font-size: 14px; line-height: 20px"/>"""


def test_small_images_are_smoothed() -> None:
    assert ' smoothing="true" width="400px"' in label_config_xml(["cat", "dog"])


@pytest.mark.parametrize("hint", ["", HINT])
def test_a_label_config_of_an_earlier_release_is_ours_until_it_is_edited(hint: str) -> None:
    xml = WITHOUT_SMOOTHING.replace("HINT", hint)
    assert is_our_label_config(xml)
    assert not is_our_label_config(xml.replace("gap: 32px", "gap: 8px"))
    assert not is_our_label_config(xml.replace('zoom="false"', 'zoom="true"'))


def test_a_label_config_of_a_release_without_columns_is_ours() -> None:
    choices = "\n".join(
        f'      <Choice value="{i}"' + (f' hotkey="{(i + 1) % 10}"' if i < 10 else "") + "/>"
        for i in range(30)
    )
    start, middle, end = WITHOUT_SMOOTHING.replace("HINT", "").partition(
        """      <Choice value="cat" hotkey="1"/>
      <Choice value="dog" hotkey="2"/>"""
    )
    assert middle
    assert is_our_label_config(start + choices + end)
