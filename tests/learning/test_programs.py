"""Programs from signature strings and import paths, and the inputs and labels they take."""

import sys
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.errors import Invalid
from learning.definitions import ProgramDefinition
from learning.programs import Blueprint, base_variant, blueprint, check_input, check_label, load
from learning.signatures import parse

RICH = (
    "text: str, count: int, share: float, flag: bool, tags: list[str], facts: dict[str, int], tone: Optional[str] "
    "-> label: Literal['a', 'b', 3], note: str | None"
)
SOUND = {"text": "t", "count": 1, "share": 0.5, "flag": True, "tags": ["x"], "facts": {"k": 2}, "tone": "kind"}


def program(signature: str | None = None, module: str = "predict") -> ProgramDefinition:
    return ProgramDefinition(signature=signature, module=module, lm="sim/triage")


def own(name: str, signature: str | None = None) -> ProgramDefinition:
    return program(signature, f"tests.learning.modules:{name}")


@pytest.fixture(scope="module")
def rich() -> Blueprint:
    return blueprint(program(RICH))


def faults(of: Callable[[], Any]) -> dict[str, str]:
    """What was refused and why; nothing when nothing was."""
    try:
        of()
    except Invalid as refused:
        return {fault.pointer: fault.message for fault in refused.faults} or {"no place": refused.detail}
    return {}


def test_a_blueprint_names_and_types_every_field(rich: Blueprint) -> None:
    assert list(rich.input_fields) == list(SOUND)
    assert rich.input_fields["tags"].json_schema == {"type": "array", "items": {"type": "string"}}
    assert rich.output_fields["label"].json_schema == {"enum": ["a", "b", 3]}
    assert list(rich.predictors) == ["predict"]


def test_predict_and_chain_of_thought_name_their_predictor_alike() -> None:
    for module in ("predict", "chain_of_thought"):
        loaded = load(program("ticket -> category", module))
        assert isinstance(loaded, dspy.Module)
        assert [name for name, _ in loaded.named_predictors()] == ["predict"]


def test_the_reasoning_of_chain_of_thought_is_no_output_of_the_program() -> None:
    assert list(blueprint(program("ticket -> category", "chain_of_thought")).output_fields) == ["category"]


def test_a_sound_input_is_taken_as_it_is(rich: Blueprint) -> None:
    assert check_input(rich, SOUND) == SOUND


def test_what_may_be_none_may_be_left_out(rich: Blueprint) -> None:
    given = {name: value for name, value in SOUND.items() if name != "tone"}
    assert check_input(rich, given) == {**SOUND, "tone": None}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", 3),
        ("text", None),
        ("text", "a\0"),
        ("text", "\ud800"),
        ("count", True),
        ("count", "1"),
        ("count", 1.0),
        ("count", 2**63),
        ("share", True),
        ("share", "0.5"),
        ("share", float("nan")),
        ("share", float("inf")),
        ("flag", 1),
        ("flag", "true"),
        ("tags", "x"),
        ("tags", {"0": "x"}),
        ("tone", 1),
    ],
)
def test_json_types_are_taken_at_their_word(rich: Blueprint, field: str, value: Any) -> None:
    assert list(faults(lambda: check_input(rich, {**SOUND, field: value}))) == [f"/input/{field}"]


def test_a_fault_inside_a_value_is_pointed_at(rich: Blueprint) -> None:
    wrong = {**SOUND, "tags": ["x", 1], "facts": {"a/b": "two"}}
    assert list(faults(lambda: check_input(rich, wrong))) == ["/input/tags/1", "/input/facts/a~1b"]


def test_every_fault_of_an_input_is_told_at_once(rich: Blueprint) -> None:
    told = faults(lambda: check_input(rich, {"txt": "t", "count": "1"}))
    assert told["/input/text"] == "is missing"
    assert "did you mean 'text'" in told["/input/txt"]
    assert "integer" in told["/input/count"]
    assert len(told) == 7


def test_a_thousand_wrong_fields_are_told_in_part(rich: Blueprint) -> None:
    assert len(faults(lambda: check_input(rich, {f"f{i}": 0 for i in range(1_000)}))) == 20


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_an_input_is_an_object(rich: Blueprint, value: Any) -> None:
    assert "must be an object" in faults(lambda: check_input(rich, value))["/input"]


def test_a_deep_input_is_refused() -> None:
    plan = blueprint(program("anything: Any -> answer"))
    deep: Any = 0
    for _ in range(20_000):
        deep = {"k": deep}
    assert "deep" in next(iter(faults(lambda: check_input(plan, {"anything": deep})).values()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50, deadline=None)  # no absolute times on a shared machine
@given(given=json_values | st.dictionaries(st.sampled_from([*SOUND, "other"]), json_values))
def test_any_json_is_either_taken_or_refused_with_a_place(rich: Blueprint, given: Any) -> None:
    assert all(pointer.startswith("/input") for pointer in faults(lambda: check_input(rich, given)))


def test_a_label_holds_some_of_the_output_fields(rich: Blueprint) -> None:
    assert check_label(rich, {"label": "a"}) == {"label": "a"}
    assert check_label(rich, {"label": 3, "note": None}) == {"label": 3, "note": None}
    assert "'a', 'b' or 3" in faults(lambda: check_label(rich, {"label": "c"}))["/label/label"]
    assert "did you mean 'label'" in faults(lambda: check_label(rich, {"lable": "a"}))["/label/lable"]
    assert "holds none" in faults(lambda: check_label(rich, {}))["/label"]


@pytest.mark.parametrize(
    "signature",
    [
        "ticket category",
        "ticket -> a -> b",
        " -> a",
        "a -> ",
        "a, a -> b",
        "a -> a",
        "a, *, b -> c",
        "a, /, b -> c",
        "*a -> c",
        "a=1 -> c",
        "a: -> c",
        "a-b -> c",
        "a): pass\nimport this\ndef g(b -> c",
        "a: antigravity -> b",
        "a: os.system -> b",
        "a: dspy.Image -> b",
        "a: __import__('os').system('true') -> b",
        "a: list[this] -> b",
        "a: Literal -> b",
        "a: Literal[x] -> b",
        "a: Literal[1.5] -> b",
        "a: Literal[()] -> b",
        "a: list[str, int] -> b",
        "a: dict[int, str] -> b",
        "a: str[int] -> b",
        "a: Field(desc='x') -> b",
        "a: " + "list[" * 50 + "str" + "]" * 50 + " -> b",
        "a: " + " | ".join(["str"] * 3_000) + " -> b",
        "a: " + "(" * 300 + "str" + ")" * 300 + " -> b",
        "a\0 -> b",
        "lm -> b",
        "config, a -> b",
        "self -> b",
        "instance -> b",
        "completions -> b",
        "_a -> b",
        "a -> instructions",
        "a -> model_fields",
    ],
)
def test_a_signature_that_cannot_be_read_whole_is_refused(signature: str) -> None:
    for name in ("this", "antigravity"):
        sys.modules.pop(name, None)
    assert list(faults(lambda: blueprint(program(signature)))) == ["/signature"]
    assert not {"this", "antigravity"} & set(sys.modules)


@settings(deadline=None)  # no absolute times on a shared machine
@given(st.text(alphabet="ab:,->[]|'() strLiteral.*=\n", max_size=40))
def test_any_text_is_a_signature_or_refused(text: str) -> None:
    assert list(faults(lambda: parse(text))) in ([], ["/signature"])


def test_a_signature_may_be_folded_over_lines() -> None:
    assert list(blueprint(program("first: str,\n  second: int\n  -> third")).input_fields) == ["first", "second"]


def test_reasoning_belongs_to_chain_of_thought() -> None:
    assert list(faults(lambda: blueprint(program("a -> reasoning", "chain_of_thought")))) == ["/signature"]


def test_a_class_says_its_own_signature_unless_the_definition_does() -> None:
    assert list(blueprint(own("Research")).output_fields) == ["answer", "sources"]
    assert list(blueprint(own("Research", "question: str, steps: int -> answer: str")).output_fields) == ["answer"]
    assert list(blueprint(own("Synchronous")).input_fields) == ["ticket"]


@pytest.mark.parametrize(
    ("definition", "pointer", "reason"),
    [
        (program(module="no.such.package:Class"), "/module", "No module named 'no'"),
        (own("Reserch"), "/module", "did you mean 'Research'"),
        (own("not_a_class"), "/module", "is not a subclass of dspy.Module"),
        (own("NeedsArguments"), "/module", "cannot be built without arguments"),
        (own("Exits"), "/module", "no database here"),
        (own("Empty"), "/module", "has no dspy.Predict"),
        (own("OwnLm"), "/module", "has a language model of its own"),
        (own("Frozen"), "/module", "is frozen"),
        (own("Unrunnable"), "/module", "neither `async def aforward` nor `def forward`"),
        (own("OtherInputs"), "/signature", "cannot be called with the inputs ticket, tone"),
        (own("SeveralWithoutSignature"), "/signature", "several predictors"),
    ],
)
def test_a_module_that_cannot_serve_is_refused_with_the_cure(
    definition: ProgramDefinition, pointer: str, reason: str
) -> None:
    told = faults(lambda: base_variant("p", definition, 0))
    assert list(told) == [pointer]
    assert reason in told[pointer]
