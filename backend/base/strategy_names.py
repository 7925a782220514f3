"""List the names of the query strategies, from which all other lists and types are derived."""

from __future__ import annotations

from typing import Literal, get_args

StrategyName = Literal[
    "auto", "least_confidence", "margin", "entropy", "badge", "typiclust", "k_center", "random"
]
# Strategies that can choose a batch. `auto` is first resolved to one of these strategies, for
# example uncertain_clusters.
ResolvedName = StrategyName | Literal["uncertain_clusters"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
