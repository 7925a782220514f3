"""Name the query strategies; every list or type of strategies is derived from these names."""

from __future__ import annotations

from typing import Literal, get_args

StrategyName = Literal[
    "auto", "least_confidence", "margin", "entropy", "badge", "typiclust", "k_center", "random"
]
# The strategies that choose a batch. `auto` is resolved first, for example to uncertain_clusters.
ResolvedName = StrategyName | Literal["uncertain_clusters"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
