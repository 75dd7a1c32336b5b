"""What an edit of the definitions would do, key by key, in words an operator can act on."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import msgspec

from experiments.metrics import Metric
from learning.definitions import ProgramDefinition
from learning.programs import blueprint
from learning.variants import lm_identity

_NEW_PROGRAM = "begins with the variant base, which serves all its traffic"
_REMOVED = "is served no longer; its data stays"
_NEW_VARIANT = "a new variant, off traffic: it reaches users only through an experiment or a promotion"
_NEW_CHAMPION = "a new variant serves at once, in a new epoch: the present one cannot answer the new signature"
_AT_ONCE = "takes effect at once"
_NEXT_EXPERIMENT = "for experiments created from now on"
_NEXT_RUN = "for compile runs asked for from now on"
_WHEN_TO_LEARN = ("on", "schedule", "min_fresh_labels", "cooldown", "monthly_budget_usd")
_CONSEQUENCES = {
    "experiments": _NEXT_EXPERIMENT,
    "promotion": _NEXT_EXPERIMENT,
    "learning": _NEXT_RUN,
    **dict.fromkeys((f"learning.{key}" for key in _WHEN_TO_LEARN), _AT_ONCE),
}
_DRIFT_ANEW = "the watch for drift begins anew, and closes its alarms: what it judges by is not comparable"
_DRIFT_RULES = ("maturity", "profile")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between the definitions in force and new ones.

    `key` is dotted (`lm.temperature`), empty for a whole program. `old` and `new` are as written, null where absent.
    `refused` says that the edit cannot be applied now; `consequence` then says why and what to do.
    """

    program: str
    kind: Literal["added", "removed", "changed"]
    key: str = ""
    old: Any = None
    new: Any = None
    consequence: str
    refused: bool = False


def changes(
    old: Mapping[str, ProgramDefinition], new: Mapping[str, ProgramDefinition], live: Collection[str] = ()
) -> list[Change]:
    """What applying `new` over `old` changes; `live` names the programs with a running or paused experiment."""
    found: list[Change] = []
    for program in sorted({*old, *new}):
        if program not in old:
            found.append(Change(program=program, kind="added", consequence=_NEW_PROGRAM))
        elif program not in new:
            refused = program in live
            consequence = _refusal("is removed") if refused else _REMOVED
            found.append(Change(program=program, kind="removed", consequence=consequence, refused=refused))
        elif old[program] != new[program]:
            found += _edits(program, old[program], new[program], program in live)
    return found


def new_signature(old: ProgramDefinition, new: ProgramDefinition) -> bool:
    """Whether a program takes or gives other fields than before, so that no variant made for the old one can serve."""
    before, after = (blueprint(definition).fingerprint.partition(".")[0] for definition in (old, new))
    return before != after


def _edits(program: str, old: ProgramDefinition, new: ProgramDefinition, live: bool) -> Iterator[Change]:
    before, after = _flat(_written(old)), _flat(_written(new))
    other_fields = new_signature(old, new)
    for key in sorted({*before, *after}, key=lambda key: (_ORDER.get(key.partition(".")[0], 0), key)):
        was, becomes = before.get(key), after.get(key)
        if was == becomes:
            continue
        consequence, refused = _consequence(key, old, new, other_fields, live)
        kind: Literal["added", "removed", "changed"] = (
            "added" if key not in before else "removed" if key not in after else "changed"
        )
        yield Change(
            program=program, kind=kind, key=key, old=was, new=becomes, consequence=consequence, refused=refused
        )


_ORDER = {key: at for at, key in enumerate(ProgramDefinition.__struct_fields__)}


def _consequence(
    key: str, old: ProgramDefinition, new: ProgramDefinition, other_fields: bool, live: bool
) -> tuple[str, bool]:
    """What follows from a changed key, and whether it is refused for now."""
    part, _, rest = key.partition(".")
    if part in ("signature", "module") and other_fields:
        return (_refusal("takes or gives other fields"), True) if live else (_NEW_CHAMPION, False)
    if part in ("signature", "module", "instructions"):
        return _NEW_VARIANT, False
    if part == "lm":
        ours, theirs = lm_identity(old.lm_settings), lm_identity(new.lm_settings)
        return (_NEW_VARIANT if rest.partition(".")[0] in _differing(ours, theirs) else _AT_ONCE), False
    if part == "drift":
        return (_DRIFT_ANEW if rest in _DRIFT_RULES else _AT_ONCE), False
    if part == "metrics":
        return _metric_consequence(rest.partition(".")[0], old, new, live)
    return _CONSEQUENCES.get(key, _CONSEQUENCES.get(part, _AT_ONCE)), False


def _metric_consequence(name: str, old: ProgramDefinition, new: ProgramDefinition, live: bool) -> tuple[str, bool]:
    """A metric that an experiment is reading must go on meaning the same."""
    before, after = old.metrics.get(name), new.metrics.get(name)
    if (
        live
        and before is not None
        and before.role != "watch"
        and (after is None or _meaning(before) != _meaning(after))
    ):
        return _refusal("measures its experiment by something else"), True
    return (_AT_ONCE + "; experiments keep the roles and margins they began with"), False


def _meaning(metric: Metric) -> tuple[Any, ...]:
    return metric.kind, metric.field, metric.range, metric.direction, metric.sources, metric.limit


def _refusal(what: str) -> str:
    return f"refused: the program {what} while its experiment runs; stop that first (ratchet experiments stop)"


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> set[str]:
    return {key for key in {*a, *b} if a.get(key) != b.get(key)}


def _written(definition: ProgramDefinition) -> dict[str, Any]:
    written: dict[str, Any] = msgspec.to_builtins(definition)
    written["lm"] = msgspec.to_builtins(definition.lm_settings)
    return written


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flat(part, f"{prefix}{key}.") if isinstance(part, dict) and part else {f"{prefix}{key}": part}
    return flat
