"""Variants: the immutable ways to run a program, known by the hash of all that shapes their answers."""

import difflib
import hashlib
import re
from typing import Any, Literal

import msgspec

from experiments.errors import Invalid
from learning.definitions import LmSettings, ProgramDefinition
from learning.states import State
from learning.values import at

Origin = Literal["definition", "upload", "compile", "twin"]


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a program. `id` is its content hash; see `content_id`.

    `parent` is the name of the variant this one was made from. `fingerprint` is INTERFACE.PREDICTORS: a hash of the
    names and types of the program's own fields, and one of those inside it. `lm` holds no key, only the name of the
    variable with one. `twin_of` is the id of the champion that this variant copies for an A/A experiment.
    """

    id: str
    program: str
    name: str
    parent: str | None = None
    origin: Origin
    compile_id: str | None = None
    twin_of: str | None = None
    module: str
    signature: str | None = None
    fingerprint: str
    state: State
    lm: LmSettings
    scores: dict[str, Any] = {}
    created_at: int

    @property
    def interface(self) -> str:
        """Equal for variants that take the same inputs and give the same outputs."""
        return self.fingerprint.partition(".")[0]


class PredictorDiff(msgspec.Struct, frozen=True):
    """Unified diffs of one predictor, each empty where nothing differs."""

    predictor: str
    instructions: str
    demos: str


class VariantDiff(msgspec.Struct, frozen=True):
    """What tells two variants apart; `lm` is a unified diff too."""

    predictors: tuple[PredictorDiff, ...]
    lm: str


def content_id(variant: Variant) -> str:
    """What identifies a variant: 32 hexadecimal digits over all that shapes its answers.

    Name, lineage, scores and times are left out, and so is how the LM is operated (price, key, retries, limits of time
    and concurrency): with another price it still is the same variant. The fingerprint stands for the signature.
    """
    parts = ("program", "module", "fingerprint", "state", "twin_of")
    return digest({"lm": lm_identity(variant.lm), **{part: getattr(variant, part) for part in parts}})


def digest(value: Any) -> str:
    """32 hexadecimal digits of BLAKE2b over canonical JSON: keys sorted, UTF-8, no white space."""
    return hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=16).hexdigest()


def lm_identity(lm: LmSettings) -> dict[str, Any]:
    """The part of the settings that shapes answers."""
    return {
        "model": lm.model,
        "api_base": lm.api_base,
        "temperature": None if lm.temperature is None else float(lm.temperature),
        "max_tokens": lm.max_tokens,
        "adapter": lm.adapter,
        "options": lm.options,
    }


def lm_in_force(variant: Variant, definition: ProgramDefinition) -> LmSettings:
    """The LM a variant runs on: its own, operated as the definition says now where that names the same model.

    Price, key variable, retries and limits belong to a model at an endpoint, not to a variant, so that they can be
    corrected in the definition at any time.
    """
    own, now = variant.lm, definition.lm_settings
    if (own.model, own.api_base) != (now.model, now.api_base):
        return own
    return msgspec.structs.replace(now, **lm_identity(own))


def check_storable(lm: LmSettings, pointer: str = "/lm") -> None:
    """Raises: Invalid where something secret would be kept with the variant."""
    if lm.api_base is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", lm.api_base):
        reason = "must be an http(s) address without user, password, query or fragment"
        raise Invalid.at(at(pointer, "api_base"), reason)
    if lm.api_key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", lm.api_key_env):
        reason = "must name the environment variable that holds the key; the key itself is never stored"
        raise Invalid.at(at(pointer, "api_key_env"), reason)


def diff(old: Variant, new: Variant) -> VariantDiff:
    """What differs, predictor by predictor."""
    names = dict.fromkeys([*old.state, *new.state])
    return VariantDiff(
        tuple(_predictor_diff(name, old.state.get(name, {}), new.state.get(name, {})) for name in names),
        _unified(_json(lm_identity(old.lm)), _json(lm_identity(new.lm))),
    )


def _predictor_diff(name: str, old: dict[str, Any], new: dict[str, Any]) -> PredictorDiff:
    instructions = _unified(old.get("instructions", ""), new.get("instructions", ""))
    demos = ("\n".join(_json(demo) for demo in state.get("demos", [])) for state in (old, new))
    return PredictorDiff(name, instructions, _unified(*demos))


def _unified(old: str, new: str) -> str:
    return "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm=""))


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode()
