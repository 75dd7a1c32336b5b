"""States that DSPy saves, and everything DSPy itself would let through."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from experiments.errors import Invalid
from learning.definitions import ProgramDefinition
from learning.programs import blueprint, load, make_variant
from learning.states import LARGEST_STATE, LONGEST_INSTRUCTIONS, MOST_DEMOS, read_state
from learning.variants import Variant

PROGRAM = ProgramDefinition(
    signature="ticket: str, urgent: bool -> category: Literal['billing', 'bug']", lm="sim/triage"
)
RESEARCH = ProgramDefinition(module="tests.learning.modules:Research", lm="sim/triage")
DEMO = {"ticket": "It crashed", "urgent": True, "category": "bug"}


def saved(module: dspy.Module, directory: Path) -> Any:
    path = directory / "state.json"
    module.save(str(path))
    return json.loads(path.read_text())


@pytest.fixture
def state(tmp_path: Path) -> Any:
    module = load(PROGRAM)
    module.predict.demos = [dspy.Example(**DEMO, augmented=True)]
    module.predict.signature = module.predict.signature.with_instructions("Sort it.")
    return saved(module, tmp_path)


def variant(state: Any, program: ProgramDefinition = PROGRAM) -> Variant:
    return make_variant("triage", program, name="new", created_at=0, state=state, parent=None)


def refusal(state: Any, program: ProgramDefinition = PROGRAM) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        variant(state, program)
    assert refused.value.faults
    return {fault.pointer: fault.message for fault in refused.value.faults}


def test_what_dspy_saves_is_read_and_only_instructions_and_demos_are_kept(state: Any) -> None:
    assert "metadata" in state
    assert variant(state).state == {"predict": {"instructions": "Sort it.", "demos": [DEMO]}}


def test_the_short_form_is_the_same_variant(state: Any) -> None:
    short = {"predict": {"instructions": "Sort it.", "demos": [DEMO]}}
    assert variant(short) == variant(state)
    assert variant({"predict": {"instructions": "Sort it."}}).state["predict"]["demos"] == []


def test_a_lone_predict_saved_by_itself_is_read(tmp_path: Path) -> None:
    lone = dspy.Predict(load(PROGRAM).predict.signature.with_instructions("Alone."))
    assert variant(saved(lone, tmp_path)).state == {"predict": {"instructions": "Alone.", "demos": []}}


def test_a_loaded_variant_saves_the_state_it_was_made_of(state: Any, tmp_path: Path) -> None:
    made = variant(state)
    assert variant(saved(load(made), tmp_path)).id == made.id


def test_a_program_of_several_steps_is_read_as_a_whole(tmp_path: Path) -> None:
    module = load(RESEARCH)
    module.note.demos = [{"question": "q", "notes": ["n"], "note": "m", "enough": False}]
    whole = saved(module, tmp_path)
    read = variant(whole, RESEARCH).state
    assert list(read) == ["note", "answer.predict"]
    assert read["note"]["demos"] == module.note.demos
    del whole["answer.predict"]
    assert refusal(whole, RESEARCH) == {
        "/state/answer.predict": "is missing; every predictor of the program must be there"
    }


def test_indented_instructions_are_kept_as_dspy_will_say_them() -> None:
    made = variant({"predict": {"instructions": "\n    Sort it.\n      Well.\n", "demos": []}})
    assert made.state["predict"]["instructions"] == "Sort it.\nWell."
    assert load(made).predict.signature.instructions == "Sort it.\nWell."


def renamed(state: Any) -> None:
    state["predict"]["signature"]["fields"][0] = {"prefix": "Body:", "description": "${body}"}


def reordered(state: Any) -> None:
    state["predict"]["signature"]["fields"].reverse()


def widened(state: Any) -> None:
    state["predict"]["signature"]["fields"].insert(1, {"prefix": "Extra:", "description": "${extra}"})


def put(*path: Any) -> Callable[[Any], None]:
    """A change of a state: the last argument is put where the others lead."""

    def change(state: Any) -> None:
        *way, key, value = path
        for step in way:
            state = state[step]
        state[key] = value

    return change


LM_WITH_SECRETS = {"model": "openai/gpt-5", "api_base": "http://evil", "extra_headers": {"Authorization": "sk-1"}}


@pytest.mark.parametrize(
    ("change", "pointer", "reason"),
    [
        (renamed, "/state/predict/signature/fields/0", "field 'ticket' has prefix 'Ticket:'"),
        (reordered, "/state/predict/signature/fields/0", "is another program's"),
        (widened, "/state/predict/signature/fields", "must be an array of 3 fields"),
        (put("predict", "forward", "boom"), "/state/predict/forward", "is not known here"),
        (put("predict", "__class__", "boom"), "/state/predict/__class__", "is not known here"),
        (put("predict", "lm", LM_WITH_SECRETS), "/state/predict/lm", "must be null"),
        (put("predict", "fields", {"category": {"criteria": "x"}}), "/state/predict/fields", "criteria"),
        (put("predict", "traces", "x"), "/state/predict/traces", "must be an array"),
        (put("predict", "signature", "x"), "/state/predict/signature", "must be an object"),
        (put("predict", "signature", "code", "x"), "/state/predict/signature/code", "is not known here"),
        (put("predict", "signature", "instructions", " "), "/state/predict/signature/instructions", "not empty"),
        (put("predict", "signature", "instructions", 3), "/state/predict/signature/instructions", "must be a text"),
        (
            put("predict", "signature", "instructions", "x" * (LONGEST_INSTRUCTIONS + 1)),
            "/state/predict/signature/instructions",
            "longer than",
        ),
        (put("predict", "demos", [DEMO] * (MOST_DEMOS + 1)), "/state/predict/demos", f"at most {MOST_DEMOS}"),
        (put("predict", "demos", {"0": DEMO}), "/state/predict/demos", "must be an array"),
        (put("predict", "demos", 0, "text"), "/state/predict/demos/0", "must be an object with fields of predict"),
        (put("predict", "demos", 0, {}), "/state/predict/demos/0", "must be an object with fields of predict"),
        (put("predict", "demos", 0, "body", "x"), "/state/predict/demos/0/body", "is not known here"),
        (
            put("predict", "demos", 0, "category", "Bug"),
            "/state/predict/demos/0/category",
            "must be 'billing' or 'bug'",
        ),
        (put("predict", "demos", 0, "urgent", 1), "/state/predict/demos/0/urgent", "must be a valid boolean"),
        (put("predict", "demos", 0, "ticket", "\ud800"), "/state/predict/demos/0/ticket", "surrogate"),
        (put("predict", "demos", 0, "ticket", "\0"), "/state/predict/demos/0/ticket", "NUL"),
        (put("predict", "demos", 0, "ticket", float("nan")), "/state/predict/demos/0/ticket", "finite"),
        (put("predict", "demos", 0, "ticket", 2**63), "/state/predict/demos/0/ticket", "2^63"),
        (put("predict", "demos", 0, "ticket", b"\x80"), "/state/predict/demos/0/ticket", "bytes is not a JSON value"),
        (put("predict", "train", ["x" * LARGEST_STATE]), "/state", "larger than"),
        (put("classify", {"instructions": "x"}), "/state/classify", "is no predictor of this program"),
        (put("predict", None), "/state/predict", "must be an object"),
    ],
)
def test_a_wrong_state_is_refused_with_the_place_and_the_reason(
    state: Any, change: Callable[[Any], None], pointer: str, reason: str
) -> None:
    variant(copy.deepcopy(state))
    change(state)
    faults = refusal(state)
    assert pointer in faults, faults
    assert reason in faults[pointer]


@pytest.mark.parametrize("key", ["demos", "signature"])
def test_a_torn_predictor_is_refused(state: Any, key: str) -> None:
    del state["predict"][key]
    assert any(message == "is missing" or "not known" in message for message in refusal(state).values())


@pytest.mark.parametrize("torn", [{}, [], "gASVCwAAAA==", b"\x80\x04\x95", None, 7, {"metadata": {}}])
def test_what_is_no_state_at_all_is_refused(torn: Any) -> None:
    plan = blueprint(PROGRAM)
    with pytest.raises(Invalid):
        read_state(torn, plan.predictors)


def test_a_state_nested_without_end_is_refused(state: Any) -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    state["predict"]["demos"][0]["ticket"] = deep
    assert "deep" in next(iter(refusal(state).values()))


def test_all_faults_are_told_at_once(state: Any) -> None:
    renamed(state)
    put("predict", "lm", LM_WITH_SECRETS)(state)
    put("predict", "forward", "boom")(state)
    assert len(refusal(state)) == 3


def test_a_frozen_sub_module_would_be_saved_as_nothing_and_is_refused() -> None:
    frozen = ProgramDefinition(module="tests.learning.modules:Frozen", lm="sim/triage")
    with pytest.raises(Invalid, match="frozen") as refused:
        blueprint(frozen)
    assert refused.value.faults[0].pointer == "/module"


def test_a_chain_of_thought_state_is_not_one_of_predict(tmp_path: Path) -> None:
    thinking = ProgramDefinition(signature=PROGRAM.signature, module="chain_of_thought", lm="sim/triage")
    foreign = saved(load(thinking), tmp_path)
    assert "/state/predict/signature/fields" in refusal(foreign)
