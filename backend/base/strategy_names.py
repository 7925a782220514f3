"""The names of the query strategies: every list and type of them derives from here."""

from __future__ import annotations

from typing import Literal, get_args

StrategyName = Literal[
    "auto", "least_confidence", "margin", "entropy", "badge", "typiclust", "k_center", "random"
]
# What chooses a batch: `auto` has been resolved by then, and uncertain_clusters is one of its ways.
ResolvedName = StrategyName | Literal["uncertain_clusters"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
