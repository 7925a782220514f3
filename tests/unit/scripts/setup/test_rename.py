"""Check the names that are given for renamed classes."""

from __future__ import annotations

import pytest

from backend.base.classes import ClassList
from backend.base.errors import TightloopError
from scripts.setup.rename import read_pair

CLASSES = ClassList(("cat", "dog", "Kitten"), ("Kitten", "dog"))
COUNTS = {"cat": 3, "dog": 2, "pussycat": 1}


@pytest.mark.parametrize(
    ("pair", "names"),
    [
        ("cat=Kitten", ("cat", "Kitten")),
        (" CAT = kitten ", ("CAT", "kitten")),
        ("pussycat=Kitten", ("pussycat", "Kitten")),  # never a class, but a label
    ],
)
def test_a_former_name_is_a_class_or_a_label_that_nobody_can_choose(
    pair: str, names: tuple[str, str]
) -> None:
    assert read_pair(pair, CLASSES, COUNTS) == names


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [
        ("cat", "write the former and the new name as old=new"),
        ("=Kitten", "write the former and the new name as old=new"),
        ("cat=lion", r"\"lion\" is not among .* \(dog, Kitten\): rename the class in Label Studio"),
        ("Dog=Kitten", r"\"Dog\" is still among the label config's choices"),
        ("emu=Kitten", r"no annotation is labeled \"emu\".*no longer offers: cat, pussycat"),
    ],
)
def test_other_names_are_refused_with_the_reason(pair: str, complaint: str) -> None:
    with pytest.raises(TightloopError, match=complaint):
        read_pair(pair, CLASSES, COUNTS)
