"""Train candidates: whole networks, and heads on the body in service."""

from __future__ import annotations

import numpy as np

from backend.images.known_labels import true_labels
from backend.measures.calibration import rescale
from backend.network.inference import load_network, predict
from backend.rounds import rounds, scoring
from backend.rounds.loop import Loop
from scripts.research.oracle import OracleProject
from tests.unit.rounds.conftest import ask_and_annotate, quiet, refit, seed, train, with_settings


def test_a_head_is_a_version_of_its_body_with_its_own_metrics_and_no_round(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    body = train(loop)
    ask_and_annotate(loop, project)
    head = refit(loop)
    assert (head.version, head.body, head.round, head.parent) == ("r0001h01", "r0001", 1, "r0001")
    assert head.labels == body.labels + project.counts().annotations - 40
    assert head.gate is not None
    assert head.gate.against == "r0001"
    assert head.calibration is not None
    assert head.sha256 != body.sha256
    assert loop.registry.last_round() == 1
    whole, own = (loop.registry.load_state(v) for v in ("r0001", "r0001h01"))
    changed = {name for name in whole if not np.array_equal(whole[name], own[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert (loop.root / "r0001h01/model.safetensors").stat().st_size < 30_000


def test_a_head_predicts_the_pool_as_its_whole_network_would(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    head = refit(loop)
    if head.refused:
        loop.registry.promote(head.version)
    whole = predict(
        load_network(loop.registry.load_state(head.version), loop.device),
        loop.pool.images,
        image_size=head.image_size,
        device=loop.device,
    )
    expected = rescale(whole.probs, head.temperature)
    np.testing.assert_allclose(scoring.pool_probs(loop, head, quiet), expected, atol=1e-5)


def test_a_damaged_head_in_service_is_replaced_by_one_fitted_from_scratch(
    loop: Loop, project: OracleProject
) -> None:
    seed(loop, project)
    train(loop)
    ask_and_annotate(loop, project)
    assert refit(loop).refused is None
    (loop.root / "r0001h01/model.safetensors").write_bytes(b"damaged")
    ask_and_annotate(loop, project)
    assert refit(loop).version == "r0001h02"


def test_with_train_head_the_body_is_never_trained(loop: Loop, project: OracleProject) -> None:
    only_heads = with_settings(loop, train="head")
    seed(only_heads, project)
    first = train(only_heads)
    project.answer_open_tasks(true_labels(loop.pool))
    second = train(only_heads)
    assert (first.version, second.version) == ("r0001", "r0001h01")
    assert second.labels == 50
    assert rounds.train_round(only_heads, is_forced=False, progress=quiet) is None
    assert first.body_key == second.body_key
    whole, own = (loop.registry.load_state(m.version) for m in (first, second))
    assert np.array_equal(whole["layer4.1.conv2.weight"], own["layer4.1.conv2.weight"])
