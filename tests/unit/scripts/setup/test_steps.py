"""Write the instructions that annotators read in Label Studio."""

from __future__ import annotations

from scripts.setup.steps import write_instructions


def test_annotators_learn_why_some_images_come_without_a_guess() -> None:
    text = write_instructions(is_blind=False, has_sample=True)
    assert "is the model's guess" in text
    assert "no choice is selected: these images measure how good the model is" in text


def test_instructions_do_not_mention_what_annotators_never_see() -> None:
    assert "measure" not in write_instructions(is_blind=False, has_sample=False)
    blind = {write_instructions(is_blind=True, has_sample=known) for known in (True, False)}
    assert len(blind) == 1
    assert "guess" not in blind.pop()
