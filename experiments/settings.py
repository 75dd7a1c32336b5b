"""How one experiment is run: the options as people write them, and the settings they resolve to.

Options come in layers (built-in defaults, the program's definition, the request); every layer may leave anything out.
The resolved settings are frozen into the experiment when it is created and never change afterwards.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from experiments.quantities import SECOND, duration

SHARE_TOLERANCE = 1e-9
MOST_COVARIATES = 5


class ExperimentOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Options of an experiment as written; what is left out falls to the next layer. See the concepts page."""

    objective: Literal["better", "as_good_and_cheaper"] | UnsetType = UNSET
    randomize: Literal["unit", "request"] | UnsetType = UNSET
    allocation: Literal["fixed", "adaptive"] | UnsetType = UNSET
    pairs: bool | UnsetType = UNSET
    split: dict[str, float] | UnsetType = UNSET
    ramp: tuple[float, ...] | UnsetType = UNSET
    alpha: float | UnsetType = UNSET
    min_effect: float | UnsetType = UNSET
    max_units: int | UnsetType = UNSET
    min_units: int | UnsetType = UNSET
    ramp_units: int | UnsetType = UNSET
    holdback_units: int | UnsetType = UNSET
    min_duration: str | float | UnsetType = UNSET
    max_duration: str | float | UnsetType = UNSET
    outcome_window: str | float | UnsetType = UNSET
    block: str | float | UnsetType = UNSET
    holdback: float | UnsetType = UNSET
    covariates: tuple[str, ...] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.split is not UNSET:
            check_split(self.split)
        _check("alpha", self.alpha, lambda v: 0 < v < 1, "between 0 and 1")
        _check("min_effect", self.min_effect, lambda v: 0 < v < 1e9, "above 0")
        if self.ramp is not UNSET:
            steps = self.ramp
            if any(not 0 < s < 1 for s in steps) or list(steps) != sorted(set(steps)) or len(steps) > 20:
                raise ValueError("ramp: shares of the challengers that rise, each between 0 and 1, at most 20 of them")
        if self.covariates is not UNSET:
            _check_covariates(self.covariates)
        for name in ("max_units", "min_units", "ramp_units", "holdback_units"):
            _check(name, getattr(self, name), lambda v: 1 <= v <= 10**12, "a whole number from 1 to 1e12")
        _check("holdback", self.holdback, lambda v: 0 <= v < 1, "a share from 0 to below 1")
        for name in ("min_duration", "max_duration", "outcome_window", "block"):
            value = getattr(self, name)
            if value is not UNSET:
                try:
                    micros = duration(value)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
                if micros < _LEAST[name]:
                    raise ValueError(f"{name}: {value!r} is not at least {_LEAST[name] // SECOND}s")

    def over(self, lower: "ExperimentOptions") -> "ExperimentOptions":
        """These options where written, the `lower` layer's elsewhere. A split written here turns a ramp below off.

        So does adaptive allocation, which takes the ramp's place.
        """
        mine = {f: v for f in ExperimentOptions.__struct_fields__ if (v := getattr(self, f)) is not UNSET}
        if ("split" in mine or self.allocation == "adaptive") and "ramp" not in mine:
            mine["ramp"] = ()
        return msgspec.structs.replace(lower, **mine)

    def resolve(self) -> "ExperimentSettings":
        """The settings with every default filled in; a split written without a ramp stays as it is.

        Raises: ValueError where options contradict each other.
        """
        window = _micros(self.outcome_window, 24 * 3600)
        adaptive = self.allocation == "adaptive"
        ramp = _or(self.ramp, () if adaptive or self.split is not UNSET else (0.1, 0.5))
        if adaptive and ramp:
            raise ValueError("allocation: adaptive takes the ramp's place; leave `ramp` out, or choose fixed")
        pairs = _or(self.pairs, False)
        if pairs and adaptive:
            raise ValueError(
                "pairs: both variants answer each request; there is no split for allocation: adaptive to move"
            )
        settings = ExperimentSettings(
            objective=_or(self.objective, "better"),
            randomize="request" if pairs else _or(self.randomize, "unit"),
            allocation=_or(self.allocation, "fixed"),
            pairs=pairs,
            ramp=ramp,
            alpha=_or(self.alpha, 0.05),
            min_effect=_or(self.min_effect, 0.03),
            max_units=_or(self.max_units, 20_000),
            min_units=_or(self.min_units, 100),
            ramp_units=_or(self.ramp_units, 200),
            holdback_units=_or(self.holdback_units, 1_000),
            min_duration=_micros(self.min_duration, 24 * 3600),
            max_duration=_micros(self.max_duration, 30 * 24 * 3600),
            outcome_window=window,
            block=_micros(self.block, 0) or max(SECOND, window // 24),
            holdback=_or(self.holdback, 0.05),
            covariates=_or(self.covariates, ()),
        )
        if settings.min_duration > settings.max_duration:
            raise ValueError("min_duration is longer than max_duration")
        return settings


class ExperimentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one experiment with every default filled in; durations in microseconds."""

    objective: Literal["better", "as_good_and_cheaper"]
    randomize: Literal["unit", "request"]
    allocation: Literal["fixed", "adaptive"]
    pairs: bool = False
    ramp: tuple[float, ...]
    alpha: float
    min_effect: float
    max_units: int
    min_units: int
    ramp_units: int
    holdback_units: int
    min_duration: int
    max_duration: int
    outcome_window: int
    block: int
    holdback: float
    covariates: tuple[str, ...] = ()


def check_split(split: Mapping[str, float]) -> None:
    """Raises: ValueError unless `split` holds shares in [0, 1] that sum to one within 1e-9."""
    if not split:
        raise ValueError("split: names at least one share")
    for name, share in split.items():
        if not 0 <= share <= 1:
            raise ValueError(f"split: the share of {name!r} is {share:g}, which is not between 0 and 1")
    total = math.fsum(split.values())
    if abs(total - 1) > SHARE_TOLERANCE:
        raise ValueError(f"split: the shares sum to {total:.12g}, not to 1")


_LEAST = {"min_duration": 0, "max_duration": SECOND, "outcome_window": SECOND, "block": SECOND}


def _check_covariates(names: tuple[str, ...]) -> None:
    if len(names) > MOST_COVARIATES or len(set(names)) != len(names) or not all(1 <= len(name) <= 64 for name in names):
        raise ValueError(
            f"covariates: at most {MOST_COVARIATES} keys of the predictions' metadata, "
            "each once, of 1 to 64 characters each"
        )


def _check(name: str, value: Any, holds: Any, allowed: str) -> None:
    if value is not UNSET and not holds(value):
        raise ValueError(f"{name}: {value!r} is not {allowed}")


def _or(value: Any, default: Any) -> Any:
    return default if value is UNSET else value


def _micros(written: str | float | UnsetType, default_seconds: int) -> int:
    return default_seconds * SECOND if written is UNSET else duration(written)
