"""Between two training runs, a few annotations lead to a head, and the head reorders the tasks."""

from __future__ import annotations

import numpy as np
import pytest

from backend.images.known_labels import true_labels
from backend.labelstudio.project import LabelStudioProject
from backend.store import model_outputs
from backend.store.project_record import project_root
from backend.store.registry import Registry
from backend.store.version_meta import Meta, body_of
from backend.workers import jobs
from tests.integration.conftest import Stack
from tests.integration.people import Person, pool_of
from tests.patience import wait_for


def test_a_few_annotations_make_a_head_and_reorder_the_tasks_without_a_training_run(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(stack)
    truth = true_labels(pool)
    info = stack.info
    project = LabelStudioProject(info["label_studio_url"], info["api_key"], info["project_id"])
    root = project_root(stack.settings.model_dir, project.project_id)
    with Person(stack) as person:
        before = person.wait_for_rest(1)
        wait_for(lambda: project.counts().open >= 3, "open tasks")
        config = project.label_config()
        for task in project.open_tasks()[:3]:
            person.submit(task.task_id, truth[task.image_id], config)
        n_labels = project.counts().annotations
        # The stack's ranker fits no heads, so this test does the ranker's job. A step that is not
        # due yet, such as a second reading of the tasks, runs on a later call.
        both = stack.settings.model_copy(update={"train": "both"})
        monkeypatch.setattr(jobs, "load_settings", lambda: both)

        def head() -> Meta | None:
            jobs.rank(project.project_id)
            heads = [meta for meta in Registry(root).versions()[0] if meta.is_head]
            return next((meta for meta in heads if meta.labels == n_labels), None)

        made = wait_for(head, "a head fitted to the new annotations")
        assert made.body == body_of(before["version"])
        # Three annotations added to sixty change little: the gate has no reason to refuse the head.
        assert made.refused is None
        wait_for(lambda: project.model_version() == made.version, "the order of the head")
        assert person.status()["round"] == before["round"]

        kept = model_outputs.load_pool_probs(root, made.version)
        assert kept is not None
        confidence = dict(zip(kept.image_ids, kept[:].max(axis=1), strict=True))
        open_images = [task.image_id for task in project.open_tasks()]
        served = person.next_task()
        assert served["data"]["image_id"] == min(open_images, key=lambda i: confidence[i])
        [shown] = [p for p in served["predictions"] if p["model_version"] == made.version]
        assert np.isclose(shown["score"], confidence[served["data"]["image_id"]], atol=1e-6)
