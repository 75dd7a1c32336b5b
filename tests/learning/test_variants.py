"""What makes two variants one and the same, and what they inherit."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from experiments.errors import Invalid
from experiments.life import twin_name
from learning.definitions import NAME, LmSettings, Price, ProgramDefinition
from learning.programs import base_variant, load, make_variant, twin
from learning.variants import Variant, diff, lm_in_force

LM = LmSettings(model="sim/triage", temperature=0.5, price=Price("0.15", "0.6"))
SIGNATURE = "ticket: str -> category: Literal['billing', 'bug']"


def definition(**changes: Any) -> ProgramDefinition:
    return ProgramDefinition(**{"signature": SIGNATURE, "instructions": "Classify.", "lm": LM, **changes})


BASE = base_variant("triage", definition(), 7)


def made(**changes: Any) -> Variant:
    return make_variant("triage", definition(), **{"name": "new", "created_at": 9, "parent": BASE, **changes})


def test_the_base_is_what_the_definition_says() -> None:
    assert (BASE.name, BASE.parent, BASE.origin, BASE.created_at) == ("base", None, "definition", 7)
    assert BASE.state == {"predict": {"instructions": "Classify.", "demos": []}}
    assert BASE.lm == LM


def test_the_id_is_the_same_in_every_process() -> None:
    script = "from tests.learning.test_variants import BASE, made\nprint(BASE.id, made(instructions='Other.').id)"
    for seed in ("1", "2"):
        ids = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        )
        assert ids.stdout.split() == [BASE.id, made(instructions="Other.").id]


def test_the_id_of_a_known_variant_never_changes() -> None:
    """A change here makes new variants out of all that exist: every running experiment would lose its arms."""
    assert BASE.id == "75a1e56045dfa35c194e9e2aecd53ca9"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"created_at": 1},
        {"parent": None},
        {"origin": "compile", "compile_id": "c1"},
        {"lm": {"price": {"input": 1, "output": 2}}},
        {"lm": {"num_retries": 0, "max_concurrency": 3, "timeout": "5s"}},
        {"lm": msgspec.structs.replace(LM, api_key_env="OTHER_KEY")},
        {"instructions": "\n  Classify.\n"},
        {"state": {"predict": {"instructions": "Classify."}}},
    ],
)
def test_what_does_not_shape_answers_does_not_change_the_id(changes: dict[str, Any]) -> None:
    assert made(**changes).id == BASE.id


@pytest.mark.parametrize(
    "changes",
    [
        {"instructions": "Sort."},
        {"state": {"predict": {"instructions": "Classify.", "demos": [{"ticket": "a", "category": "bug"}]}}},
        {"lm": {"temperature": 0.6}},
        {"lm": {"max_tokens": 10}},
        {"lm": "sim/other"},
        {"lm": {"options": {"seed": 1}}},
        {"lm": {"api_base": "http://127.0.0.1:8080/v1"}},
        {"lm": {"adapter": "json"}},
    ],
)
def test_what_shapes_answers_changes_the_id(changes: dict[str, Any]) -> None:
    assert made(**changes).id != BASE.id


def test_program_module_and_types_change_the_id_but_white_space_does_not() -> None:
    spaced = definition(signature=SIGNATURE.replace(" -> ", "->"))
    assert base_variant("triage", spaced, 0).id == BASE.id
    others = [
        base_variant("other", definition(), 0),
        base_variant("triage", definition(module="chain_of_thought"), 0),
        base_variant("triage", definition(signature=SIGNATURE.replace("'bug'", "'bug', 'other'")), 0),
        base_variant("triage", definition(signature=SIGNATURE.replace("ticket", "text")), 0),
    ]
    assert len({BASE.id, *(other.id for other in others)}) == 5


def test_the_interface_tells_what_goes_in_and_out_and_not_how() -> None:
    thinking = base_variant("triage", definition(module="chain_of_thought"), 0)
    assert thinking.interface == BASE.interface
    assert thinking.fingerprint != BASE.fingerprint
    wider = base_variant("triage", definition(signature=SIGNATURE.replace("'bug'", "'bug', 'other'")), 0)
    assert wider.interface != BASE.interface


def test_a_twin_has_the_name_that_its_experiment_knows_however_long_its_champions_is() -> None:
    long = msgspec.structs.replace(BASE, name="v" * 64)
    assert twin(long, 11).name == twin_name(long.name)
    assert NAME.fullmatch(twin_name(long.name))


def test_a_twin_is_its_champion_under_another_id() -> None:
    same = twin(BASE, 11)
    assert (same.name, same.parent, same.origin, same.twin_of) == ("base-aa", "base", "twin", BASE.id)
    assert same.id != BASE.id
    assert twin(BASE, 12).id == same.id
    assert (same.state, same.lm, same.module, same.signature) == (BASE.state, BASE.lm, BASE.module, BASE.signature)


def test_a_child_inherits_what_it_does_not_change() -> None:
    first = made(instructions="Sort.", lm={"temperature": 0.9})
    child = made(name="child", parent=first, lm={"max_tokens": 5})
    assert child.parent == "new"
    assert child.state == first.state
    assert (child.lm.temperature, child.lm.max_tokens, child.lm.price) == (0.9, 5, LM.price)


def test_another_model_inherits_nothing_of_the_first() -> None:
    other = made(lm={"model": "sim/other"})
    assert other.lm == LmSettings(model="sim/other")


def test_a_key_stays_with_the_address_that_the_definition_sends_it_to() -> None:
    keyed = definition(lm=msgspec.structs.replace(LM, api_key_env="TRIAGE_KEY"))
    parent = base_variant("triage", keyed, 0)
    assert made(parent=parent, lm={"temperature": 1.0}).lm.api_key_env == "TRIAGE_KEY"
    assert made(parent=parent, lm={"model": "sim/other", "api_key_env": "TRIAGE_KEY"}).lm.api_key_env == "TRIAGE_KEY"
    assert made(parent=parent, lm={"api_base": "http://mine/v1"}).lm.api_key_env is None
    with pytest.raises(Invalid, match="only be written in the definitions"):
        made(parent=parent, lm={"api_base": "http://mine/v1", "api_key_env": "TRIAGE_KEY"})


def test_a_parent_with_other_fields_is_refused() -> None:
    wider = base_variant("triage", definition(signature=SIGNATURE.replace("'bug'", "'bug', 'other'")), 0)
    with pytest.raises(Invalid, match="/parent"):
        made(parent=wider)


def test_a_variant_whose_code_has_changed_its_fields_does_not_load() -> None:
    changed = msgspec.structs.replace(BASE, signature="text: str -> category: str")
    with pytest.raises(Invalid, match="other fields now"):
        load(changed)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": "No Good"}, "/name"),
        ({"name": "x" * 65}, "/name"),
        ({"instructions": ""}, "/instructions"),
        ({"instructions": 3}, "/instructions"),
        ({"instructions": "a\0b"}, "/instructions"),
        ({"lm": {"model": "no-provider"}}, "/lm"),
        ({"lm": {"api_key": "sk-1"}}, "/lm"),
        ({"lm": {"extra_headers": {"Authorization": "sk-1"}}}, "/lm"),
        ({"lm": msgspec.structs.replace(LM, api_key_env="sk-proj-1234")}, "/lm/api_key_env"),
        ({"lm": {"api_key_env": "RATCHET_DATABASE_URL"}}, "/lm/api_key_env"),
        ({"lm": {"api_base": "http://mine/v1", "api_key_env": "TRIAGE_KEY"}}, "/lm/api_key_env"),
        ({"lm": {"api_base": "https://user:secret@host/v1"}}, "/lm/api_base"),
        ({"lm": {"api_base": "https://host/v1?key=secret"}}, "/lm/api_base"),
        ({"lm": {"api_base": "file:///etc/passwd"}}, "/lm/api_base"),
        ({"lm": {"temperature": "warm"}}, "/lm/temperature"),
        ({"lm": {"price": {"input": "x", "output": 1}}}, "/lm/price"),
        ({"lm": {"options": {"seed": 2**70}}}, "/lm/options/seed"),
        ({"lm": 3}, "/lm"),
    ],
)
def test_a_wrong_variant_is_refused_where_it_is_wrong(changes: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        made(**changes)
    assert [fault.pointer for fault in refused.value.faults] == [pointer]
    assert "sk-" not in refused.value.detail


def test_instructions_alone_do_not_say_which_of_several_predictors_they_are_for() -> None:
    research = ProgramDefinition(module="tests.learning.modules:Research", lm="sim/triage", instructions="Go.")
    with pytest.raises(Invalid, match=r"note, answer\.predict"):
        base_variant("research", research, 0)


def test_a_variant_survives_its_own_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(BASE), type=Variant) == BASE


def test_an_lm_is_operated_as_the_definition_says_now() -> None:
    cheaper = definition(lm=msgspec.structs.replace(LM, price=Price("0.1", "0.2"), temperature=0.0, max_concurrency=3))
    in_force = lm_in_force(BASE, cheaper)
    assert (in_force.price, in_force.max_concurrency, in_force.temperature) == (Price("0.1", "0.2"), 3, 0.5)
    elsewhere = definition(lm="sim/other")
    assert lm_in_force(BASE, elsewhere) == LM


def test_a_diff_shows_each_predictor_and_the_lm() -> None:
    demo = {"ticket": "a", "category": "bug"}
    state = {"predict": {"instructions": "Classify.\nBe brief.", "demos": [demo]}}
    difference = diff(BASE, made(state=state, lm={"temperature": 0.9}))
    [predictor] = difference.predictors
    assert predictor.predictor == "predict"
    assert "+Be brief." in predictor.instructions.splitlines()
    assert '+  "category": "bug",' in predictor.demos.splitlines()
    assert {'-  "temperature": 0.5', '+  "temperature": 0.9'} <= set(difference.lm.splitlines())


def test_nothing_differs_between_a_variant_and_itself() -> None:
    difference = diff(BASE, twin(BASE, 1))
    assert [(part.instructions, part.demos) for part in difference.predictors] == [("", "")]
    assert difference.lm == ""
