"""Limits from good parts alone.

The unit is the *part*: each good part gives its peak, the largest value of its anomaly map, since one pixel
region above the limit is enough to flag it. A share of pixels or tiles would hide that: 4,845 tiles at a
99.9 % quantile are five false tiles on every good part.

If parts are exchangeable, the k-th smallest of n peaks is exceeded by a new good part's peak with
probability (n + 1 - k) / (n + 1) at most (split conformal prediction, Vovk et al. 2005). With several maps,
each with its own limit, the rates add up; rule ``quantile`` therefore gives each map its share of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inspect_cli.errors import NoInputError, UsageError, nearest
from inspect_cli.material.manifest import LEAST_LIMIT, MapLimit
from inspect_cli.recipe.schema import ThresholdSpec

#: A higher rate is no promise: there are too few good parts for one.
WORTH_SAYING: Final = 0.5


@dataclass(frozen=True)
class GoodPeaks:
    """Peaks of one map, one value a good part, in raw residual units."""

    pixel: NDArray[np.float64]
    patch: NDArray[np.float64]


@dataclass(frozen=True)
class _Limit:
    value: float
    false_alarm_rate: float | None


def _max_rule(peaks: NDArray[np.float64], spec: ThresholdSpec, maps: int) -> _Limit:
    """Largest peak times the margin; without margin a new good part exceeds it in 1 of n + 1 cases."""
    rate = 1 / (len(peaks) + 1)
    return _Limit(float(peaks.max()) * spec.margin, rate if rate * maps <= WORTH_SAYING else None)


def _quantile_rule(peaks: NDArray[np.float64], spec: ThresholdSpec, maps: int) -> _Limit:
    """The k-th smallest peak with k = ceil((n + 1) * q); the maps share the rate 1 - quantile."""
    count = len(peaks)
    quantile = 1 - (1 - spec.quantile) / maps
    rank = _rank(count, quantile)
    if rank > count:
        needed = max(count, int(quantile / (1 - quantile)) - 2)
        while _rank(needed, quantile) > needed:
            needed += 1
        raise UsageError(
            f"quantile {spec.quantile} needs at least {needed} good parts, {count} given: "
            "give more, ask for less, or use --rule max"
        )
    return _Limit(float(np.sort(peaks)[rank - 1]), (count + 1 - rank) / (count + 1))


def _rank(count: int, quantile: float) -> int:
    """Return ceil((n + 1) q), forgiving the last digits of a product of decimals."""
    return math.ceil(round((count + 1) * quantile, 9))


def _sigma_rule(peaks: NDArray[np.float64], spec: ThresholdSpec, maps: int) -> _Limit:  # noqa: ARG001
    """Mean plus k standard deviations of the peaks; promises no rate."""
    if len(peaks) < 2:
        raise UsageError(f"rule sigma needs at least 2 good parts, {len(peaks)} given: use --rule max")
    return _Limit(float(peaks.mean() + spec.sigma * peaks.std(ddof=1)), None)


RULES: Final[dict[str, Callable[[NDArray[np.float64], ThresholdSpec, int], _Limit]]] = {
    "max": _max_rule,
    "quantile": _quantile_rule,
    "sigma": _sigma_rule,
}


def limits_from_good(
    peaks: Mapping[str, GoodPeaks], rule: str, spec: ThresholdSpec
) -> tuple[dict[str, MapLimit], float | None]:
    """Return the limit of each map and the rate at which good parts are flagged at most.

    The rate is None if the rule promises none, or if there are too few good parts for a promise.

    Raises
    ------
    UsageError
        If the rule is unknown, or asks for more good parts than there are.
    NoInputError
        If there is no good part with a finite peak.
    """
    if rule not in RULES:
        raise UsageError(f"--rule {rule!r} is unknown: {nearest(rule, list(RULES))}")
    limits: dict[str, MapLimit] = {}
    rate: float | None = 0.0
    for name, found in peaks.items():
        pixel = _finite(found.pixel, name)
        limit = RULES[rule](pixel, spec, len(peaks))
        patch = RULES[rule](_finite(found.patch, name), spec, len(peaks))
        limits[name] = MapLimit(pixel=max(limit.value, LEAST_LIMIT), patch=max(patch.value, LEAST_LIMIT))
        rate = None if rate is None or limit.false_alarm_rate is None else rate + limit.false_alarm_rate
    return limits, rate


def _finite(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise NoInputError(f"map {name!r}: no good part was scored, so no limit can be set")
    return finite
