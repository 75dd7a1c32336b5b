"""`ratchet.yaml`: read as a whole, with every error at its line and column, not only the first."""

import math
from collections.abc import Generator, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta

from experiments.errors import Fault, Invalid, nearest
from learning.compiling.estimates import NEEDS_OPTUNA, installed
from learning.definitions import NAME, LmSettings, ProgramDefinition
from learning.feedback.scoring import rescorable
from learning.lms import check_lm
from learning.programs import Blueprint, blueprint
from learning.variants import check_storable
from server.definitions.conversion import Converter
from server.definitions.places import Document, Path, Slip, dotted, parse, pointer
from server.schedules import trigger

ROLES = ("champion", "challenger")
_NO_TEXT = frozenset({"integer", "number", "boolean", "array", "object"})
_PLACEHOLDER_LM = "sim/unread"
_NO_NAME = "is no name; small letters, digits, - and _, a letter or digit first and last, at most 64 in all"
_PRICE = "write `lm` as a mapping with `price: {input, output}`, in USD per million tokens"

Finding = tuple[Path, str]
"""Where below the program, and what is wrong there."""


class Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    programs: dict[Annotated[str, Meta(pattern=f"^{NAME.pattern}$")], ProgramDefinition]


class Definitions(msgspec.Struct, frozen=True):
    """A valid definitions file: its programs by name, and the text they were read from."""

    programs: dict[str, ProgramDefinition]
    source: str


def read(text: str, filename: str) -> Definitions:
    """The definitions in `text`.

    Raises: Invalid with one fault per error, in the order of the file. Its pointer is the JSON pointer of the part;
    its message reads `file:line:column: programs.triage.lm.model: what is wrong, and what is allowed`.
    """
    document = parse(text, filename)
    converter = Converter(document)
    root = converter.convert(document.data, Root, ())
    slips = [*document.slips, *converter.slips, *_bad_names(document)]
    for name, definition in _sound_programs(document, slips):
        slips += _cross_checks(document, name, definition)
    if slips:
        faults = [
            Fault(pointer(slip.path), _line(filename, slip)) for slip in sorted(slips, key=lambda slip: slip.place)
        ]
        raise Invalid("\n".join(fault.message for fault in faults), faults=faults)
    return Definitions(root.programs, text)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `ratchet.yaml`, for editors; the checks between fields are `read`'s alone."""
    schema = msgspec.json.schema(Root)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ratchet.yaml", **schema}


def _line(filename: str, slip: Slip) -> str:
    path = dotted(slip.path)
    return f"{filename}:{slip.place.line}:{slip.place.column}: {path}{': ' if path else ''}{slip.message}"


def _bad_names(document: Document) -> Iterator[Slip]:
    for path in document.keys:
        named = path[0] == "programs" and (len(path) == 2 or (len(path) == 4 and path[2] == "metrics"))
        if named and not NAME.fullmatch(str(path[-1])):
            yield document.slip(path, _NO_NAME, key=True)


def _sound_programs(document: Document, slips: list[Slip]) -> Iterator[tuple[str, ProgramDefinition]]:
    """Every program without its faulty parts, so that one slip does not hide what a later check would find."""
    programs = document.data.get("programs") if isinstance(document.data, dict) else None
    for name, data in programs.items() if isinstance(programs, dict) else ():
        if not isinstance(data, dict):
            continue
        faulty = {slip.path[2:] for slip in slips if slip.path[:2] == ("programs", name) and len(slip.path) > 2}
        metrics = data.get("metrics")
        sound = {key: part for key, part in data.items() if not any(path[0] == key for path in faulty)}
        if isinstance(metrics, dict):
            sound["metrics"] = {key: part for key, part in metrics.items() if not _touched(faulty, ("metrics", key))}
        sound.setdefault("lm", _PLACEHOLDER_LM)
        definition = Converter(document).convert(sound, ProgramDefinition, ("programs", name))
        if definition is not UNSET:
            yield name, definition


def _touched(faulty: set[Path], path: Path) -> bool:
    return any(other[: len(path)] == path for other in faulty)


def _cross_checks(document: Document, name: str, definition: ProgramDefinition) -> Iterator[Slip]:
    """What is wrong between parts that are sound by themselves."""
    program = ("programs", name)
    written = document.data["programs"][name]
    complete = definition.metrics.keys() == (written.get("metrics") or {}).keys()
    findings = [*_lm_findings(definition), *_promotion_findings(definition), *_objective_findings(definition)]
    try:
        plan = blueprint(definition)
        findings += [*_metric_findings(definition, plan), *_component_findings(definition, plan)]
    except Invalid as error:
        findings += [(_path(fault.pointer), fault.message) for fault in error.faults]
    if "experiments" in written:
        findings += _experiment_findings(definition, goal_known=complete)
    if "learning" in written:
        findings += [*_learning_findings(definition, goal_known=complete), *_budget_findings(definition)]
    for below, message in findings:
        yield document.slip((*program, *below), message)


def _lm_findings(definition: ProgramDefinition) -> Iterator[Finding]:
    if definition.lm == _PLACEHOLDER_LM:
        return
    settings = yield from _opened(("lm",), definition.lm)
    if settings is None:
        return
    counted = [name for name, metric in definition.metrics.items() if metric.kind == "cost" and metric.role != "watch"]
    if settings.price is None:
        for name in counted:
            yield ("metrics", name), f"a cost {definition.metrics[name].role} needs the LM's price: {_PRICE}"
        if definition.experiments.objective == "as_good_and_cheaper":
            yield ("experiments", "objective"), f"cheaper needs the LM's price: {_PRICE}"


def _opened(at: Path, written: str | LmSettings) -> Generator[Finding, None, LmSettings | None]:
    """What keeps a language model from being opened here; returns its settings, if they are any."""
    try:
        settings = LmSettings(model=written) if isinstance(written, str) else written
    except ValueError as error:
        yield at, str(error)
        return None
    try:
        check_storable(settings, "")
        check_lm(settings)
    except Invalid as error:
        for fault in error.faults:
            yield (*at, *(_path(fault.pointer) if written is settings else ())), fault.message
    return settings


def _learning_findings(definition: ProgramDefinition, *, goal_known: bool) -> Iterator[Finding]:
    options, goal = definition.learning, definition.goal
    if options.schedule is not None:
        try:
            trigger(options.schedule)
        except ValueError as error:
            yield ("learning", "schedule"), str(error)
    if options.reflection_lm is not None:
        yield from _opened(("learning", "reflection_lm"), options.reflection_lm)
    if options.optimizer != "auto" and options.optimizer not in installed():
        yield ("learning", "optimizer"), NEEDS_OPTUNA
    fault = rescorable(definition.metrics[goal] if goal else None)
    if options.on and fault and (goal or goal_known):
        yield ("learning", "on"), f"the program cannot be recompiled: {fault}"


def _budget_findings(definition: ProgramDefinition) -> Iterator[Finding]:
    """A budget in dollars is kept before a call is paid, which takes a price."""
    options = definition.learning
    budget = next((name for name in ("budget_usd", "monthly_budget_usd") if getattr(options, name) is not None), None)
    if budget is None or definition.lm == _PLACEHOLDER_LM:
        return
    try:
        lm, reflection = definition.lm_settings, options.reflection_settings
    except ValueError:
        return  # reported as no model's name
    if lm.price is None:
        yield ("learning", budget), f"a budget in dollars needs the LM's price: {_PRICE}"
    if reflection is not None and reflection.price is None and options.optimizer != "bootstrap_few_shot":
        where = _PRICE.replace("`lm`", "`reflection_lm`")
        yield ("learning", budget), f"a budget in dollars needs the reflection LM's price: {where}"


def _component_findings(definition: ProgramDefinition, plan: Blueprint) -> Iterator[Finding]:
    component = definition.learning.component
    if component is not None and component not in plan.predictors:
        reason = f"{component!r} is no predictor of this program; {nearest(component, plan.predictors)}"
        yield ("learning", "component"), reason


def _metric_findings(definition: ProgramDefinition, plan: Blueprint) -> Iterator[Finding]:
    for name, metric in definition.metrics.items():
        if metric.field is None:
            continue
        field = plan.output_fields.get(metric.field)
        if field is None:
            allowed = nearest(metric.field, plan.output_fields)
            yield ("metrics", name, "field"), f"{metric.field!r} is no output field of the signature; {allowed}"
        elif metric.kind != "exact_match" and field.json_schema.get("type") in _NO_TEXT:
            kind = field.json_schema["type"]
            yield (
                ("metrics", name, "kind"),
                f"{metric.kind} compares texts, and {metric.field!r} is of type {kind}; use exact_match",
            )


def _objective_findings(definition: ProgramDefinition) -> Iterator[Finding]:
    goal = definition.goal
    if definition.experiments.objective != "as_good_and_cheaper" or goal is None:
        return
    if definition.metrics[goal].margin is None and definition.metrics[goal].kind != "error":
        yield ("metrics", goal), "as_good_and_cheaper needs `margin` here: how much worse is still as good"


def _promotion_findings(definition: ProgramDefinition) -> Iterator[Finding]:
    goal = definition.goal
    if goal and definition.metrics[goal].expected == "volunteered" and definition.promotion == "auto":
        yield (
            ("metrics", goal, "expected"),
            "a volunteered goal never promotes by itself; write `promotion: recommend`, or another `expected`",
        )


def _experiment_findings(definition: ProgramDefinition, *, goal_known: bool) -> Iterator[Finding]:
    options, goal = definition.experiments, definition.goal
    if goal is None and goal_known:
        yield ("experiments",), "experiments need a goal: give one metric `role: goal`"
    if options.split is not UNSET:
        for name in options.split.keys() - set(ROLES):
            yield (
                ("experiments", "split", name),
                f"a split in the definitions names roles, not variants; {nearest(name, ROLES)}",
            )
        if not 0 < options.split.get("challenger", 0.0) < 1:
            yield ("experiments", "split"), "the champion and the challenger both need a share above 0"
        first = options.ramp[0] if options.ramp else None  # UNSET and () are both false
        if first is not None and not math.isclose(options.split.get("challenger", first), first):
            yield (
                ("experiments", "ramp"),
                "the first step of a ramp is the challenger's share in `split`: write them alike, or `ramp: []`",
            )
    try:
        settings = options.resolve()
    except ValueError as error:
        yield ("experiments", str(error).split()[0]), str(error)
        return
    if goal and definition.metrics[goal].bounded:
        low, high = definition.metrics[goal].bounds
        if settings.min_effect >= high - low:
            yield (
                ("experiments", "min_effect"),
                f"{settings.min_effect:g} is no smaller than the whole range of {goal!r}, {low:g} to {high:g}",
            )


def _path(pointer: str) -> Path:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
