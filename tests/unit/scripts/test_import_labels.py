"""Test what the command says about a file of labels."""

from __future__ import annotations

from collections import Counter

import pytest

from backend.base.errors import LabelFileError
from backend.labelstudio.project import LabelStudioProject
from backend.results.import_file import ImportedLabel, LabelFile
from backend.results.import_plan import HAS_TASK, ImportPlan, NewLabels
from scripts.import_labels import create_accounts, describe


def test_every_label_in_the_file_is_accounted_for() -> None:
    plan = ImportPlan(
        new_tasks={"1a": NewLabels("cat", {1: "cat"}), "2b": NewLabels(by={2: "dog"})},
        annotations=[(7, 1, "cat")],
        n_unchanged=2,
        n_different=1,
        left_out=Counter({HAS_TASK: 3}),
        no_account=Counter({"bo": 2, "cy@x.org": 1}),
    )
    n_labels = 3 + 1 + 2 + 1 + 3 + 3
    file = LabelFile((ImportedLabel("1a", "cat", ""),) * n_labels, n_by_model=1000)
    assert [*describe(file, plan, may_create=False)] == [
        "1,013 labels in the file",
        "      3 for 2 new tasks",
        "      1 for existing tasks",
        "      2 already there",
        "      1 left out: the annotator chose another class earlier, or skipped",
        "      3 left out: without an annotator, for images that already have a task",
        "  1,000 left out: labels by the model",
        "      3 left out: the annotators have no account; use --create-accounts: bo (2), "
        "cy@x.org (1)",
    ]
    *_, last = describe(file, plan, may_create=True)
    assert "for whom accounts would be created: bo (2)" in last


def test_no_account_is_created_if_any_name_is_not_an_email() -> None:
    """Label Studio is out of reach, so a request would raise another error."""
    project = LabelStudioProject("http://127.0.0.1:9", "token", 1)
    with pytest.raises(LabelFileError, match=r"not email addresses: 'bo', 'worker 3'$"):
        create_accounts(project, ["ann@x.org", "bo", "worker 3"])
