"""`ratchet.yaml`: what is read from it, and every error at its line and column."""

import json
from pathlib import Path

import pytest

from experiments.errors import Invalid
from learning.definitions import LmSettings, ProgramDefinition
from server.definitions.changes import Change, changes
from server.definitions.places import read_file
from server.definitions.reading import json_schema, read

HEAD = """programs:
  triage:
    signature: "ticket: str -> category: str, urgency: int"
    lm: {model: sim/triage, price: {input: 0.25, output: 2}}
"""
METRICS = "    metrics: {correct: {kind: exact_match, field: category, role: goal}}\n"


def program(text: str) -> ProgramDefinition:
    return read(text, "ratchet.yaml").programs["triage"]


def errors(text: str) -> list[str]:
    with pytest.raises(Invalid) as caught:
        read(text, "ratchet.yaml")
    return [fault.message for fault in caught.value.faults]


def test_a_whole_file_is_read_as_written() -> None:
    text = HEAD + METRICS + "    timeout: 5s\n    experiments: {min_effect: 0.05, ramp: [0.1, 0.5]}\n"
    found = program(text)
    assert found.lm_settings.model == "sim/triage"
    assert found.deadline == 5_000_000
    assert found.goal == "correct"
    assert found.experiments.ramp == (0.1, 0.5)
    assert read(text, "x").source == text


def test_an_alias_stands_for_what_it_names() -> None:
    text = HEAD.replace("lm: {", "lm: &lm {") + "  other: {signature: a -> b, lm: *lm}\n"
    assert read(text, "x").programs["other"].lm_settings.model == "sim/triage"


def test_keys_that_old_yaml_takes_for_truth_are_names() -> None:
    learning = program(HEAD + METRICS + "    learning: {on: [drift, schedule], schedule: 0 3 * * *}\n").learning
    assert learning.on == ("drift", "schedule")


@pytest.mark.parametrize(
    ("below", "message"),
    [
        ("instructions: ^12", "triage.instructions: 12 is not a text; put it in quotes"),
        ("fallback: ^champ", "triage.fallback: 'champ' is unknown; did you mean 'champion'? Allowed: champion, error"),
        ("^fallbck: error", "triage.fallbck: is unknown; did you mean 'fallback'?"),
        ("timeout: ^30 seconds", "triage.timeout: '30 seconds' is not a duration"),
        ("timeout: ^true", "triage.timeout: true is not a text or a number"),
        ("timeout:^", "triage.timeout: is left empty; it is a text or a number"),
        ("promotion: ^on", "triage.promotion: on without quotes is true to some YAML readers"),
        ("drift: {tolerated_drop: ^12:30}", "triage.drift.tolerated_drop: 12:30 without quotes is a number in base 60"),
        ("module: ^nope", "triage.module: module 'nope' is not predict, chain_of_thought or import.path:ModuleClass"),
        ("module: ^no.such:Thing", "triage.module: "),
        ("metrics: {a: {kind: ^judge}}", "triage.metrics.a.kind: 'judge' is unknown; Allowed: boolean, cost, error"),
        ("metrics: {^a: {}}", "triage.metrics.a: `kind` is missing; it is one of exact_match, "),
        ("metrics: {a: ^1}", "triage.metrics.a: 1 is not a mapping"),
        ("metrics: {a: {kind: ^score}}", "triage.metrics.a.kind: kind 'score' needs `range`"),
        ("metrics: {a: {kind: score, ^range: [5, 1]}}", "triage.metrics.a.range: range [5.0, 1.0] must rise"),
        ("metrics: {a: {kind: score, range: ^5}}", "triage.metrics.a.range: 5 is not a list of 2 numbers"),
        ("metrics: {a: {kind: boolean, sources: [human, ^robot]}}", "triage.metrics.a.sources[1]: 'robot' is unknown"),
        ("metrics: {^Bad: {kind: boolean}}", "triage.metrics.Bad: is no name; small letters, digits"),
        (
            "metrics: {a: {kind: exact_match, field: ^categry}}",
            "triage.metrics.a.field: 'categry' is no output field of the signature; did you mean 'category'?",
        ),
        (
            "metrics: {a: {kind: ^token_f1, field: urgency}}",
            "triage.metrics.a.kind: token_f1 compares texts, and 'urgency' is of type integer; use exact_match",
        ),
        (
            "metrics: {a: {kind: boolean, role: goal, expected: ^volunteered}}",
            "triage.metrics.a.expected: a volunteered goal never promotes by itself; write `promotion: recommend`",
        ),
        ("^experiments: {}", "triage.experiments: experiments need a goal: give one metric `role: goal`"),
        (
            f"{METRICS}    experiments: {{max_units: ^1e3}}",
            "triage.experiments.max_units: 1e3 is not a whole number; wr",
        ),
        (f"{METRICS}    experiments: {{max_units: ^1_000}}", "triage.experiments.max_units: 1_000 is read differently"),
        (f"{METRICS}    experiments: {{max_units: ^010}}", "triage.experiments.max_units: 010 is read differently"),
        (f"{METRICS}    experiments: {{alpha: ^.nan}}", "triage.experiments.alpha: .nan is not a finite number"),
        (
            f"{METRICS}    experiments: {{min_effect: ^3}}",
            "triage.experiments.min_effect: 3 is no smaller than the who",
        ),
        (
            f"{METRICS}    experiments: {{min_duration: ^60d}}",
            "triage.experiments.min_duration: min_duration is longer than max_duration",
        ),
        (
            f"{METRICS}    experiments: {{split: {{base: ^0.9, challenger: 0.1}}}}",
            "triage.experiments.split.base: a split in the definitions names roles, not variants",
        ),
        (
            f"{METRICS}    experiments: {{^split: {{champion: 0.9, challenger: 0.2}}}}",
            "triage.experiments.split: the shares sum to 1.1, not to 1",
        ),
        (
            f"{METRICS}    experiments: {{^split: {{champion: 1, challenger: 0}}}}",
            "triage.experiments.split: the champion and the challenger both need a share above 0",
        ),
        (
            f"{METRICS}    experiments: {{split: {{champion: 0.9, challenger: 0.1}}, ^ramp: [0.2]}}",
            "triage.experiments.ramp: the first step of a ramp is the challenger's share in `split`",
        ),
    ],
)
def test_an_error_names_its_place_and_what_is_allowed(below: str, message: str) -> None:
    marked = HEAD + (below if below.startswith(" ") else f"    {below}") + "\n"
    assert_one_error(marked, message)


@pytest.mark.parametrize(
    ("lm", "message"),
    [
        ("^nope", "triage.lm: model 'nope' is not PROVIDER/NAME, such as openai/gpt-5-mini"),
        ("{^modl: x, model: sim/triage}", "triage.lm.modl: is unknown; did you mean 'model'?"),
        ("{model: sim/triage, temperature: ^hot}", "triage.lm.temperature: 'hot' is not a number"),
        ("{model: sim/triage, num_retries: ^2}", "triage.lm.num_retries: num_retries is 0 or 1"),
        ("{model: sim/triage, ^price: {input: 1}}", "triage.lm.price: `output` is missing; it is a text or a number"),
        (
            "{model: sim/triage, price: {input: ^x, output: 1}}",
            "triage.lm.price.input: 'x' is not an amount in dollars",
        ),
        ("{model: ^sim/nowhere}", "triage.lm.model: "),
        ("{model: openai/x, api_key_env: ^sk-123}", "triage.lm.api_key_env: must name the environment variable"),
        ("{model: openai/x, api_key_env: ^NO_SUCH_KEY}", "triage.lm.api_key_env: the environment variable NO_SUCH_KEY"),
        ("{model: openai/x, api_base: ^'http://user:key@host'}", "triage.lm.api_base: must be an http(s) address"),
    ],
)
def test_an_error_in_the_language_model_names_its_place(lm: str, message: str) -> None:
    assert_one_error(HEAD.replace("{model: sim/triage, price: {input: 0.25, output: 2}}", lm), message)


@pytest.mark.parametrize(
    ("learning", "message"),
    [
        ("{^on: [schedule]}", "learning.on: schedule needs `schedule`, such as '0 3 * * *'"),
        ("{schedule: ^hourly}", "learning.schedule: schedule 'hourly' does not have the five fields of cron"),
        ("{schedule: ^0 25 * * *}", "learning.schedule: schedule '0 25 * * *' is not one of cron's"),
        ("{component: ^solve}", "learning.component: 'solve' is no predictor of this program; Allowed: predict"),
        ("{reflection_lm: ^gpt-5}", "learning.reflection_lm: model 'gpt-5' is not PROVIDER/NAME"),
        ("{reflection_lm: {model: ^sim/nowhere}}", "learning.reflection_lm.model: there is no simulated model"),
        ("{judge_lm: ^openai/gpt-5}", "learning.judge_lm: judge_lm is null"),
        (
            "{budget_usd: ^5, reflection_lm: sim/triage}",
            "learning.budget_usd: a budget in dollars needs the reflection LM's price: write `reflection_lm` as a map",
        ),
        ("{gate: {confidence: ^1}}", "learning.gate.confidence: confidence is from 0.5 to below 1"),
        ("{cooldown: ^soon}", "learning.cooldown: 'soon' is not a duration"),
    ],
)
def test_an_error_in_learning_names_its_place(learning: str, message: str) -> None:
    assert_one_error(HEAD + METRICS + f"    learning: {learning}\n", f"triage.{message}")


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ("", "the program has no goal"),
        ("    metrics: {solved: {kind: boolean, role: goal}}\n", "its goal is of kind 'boolean'"),
    ],
)
def test_what_recompiles_by_itself_needs_a_goal_that_scores_any_answer(metrics: str, reason: str) -> None:
    (error,) = errors(HEAD + metrics + "    learning: {on: [drift]}\n")
    assert f"programs.triage.learning.on: the program cannot be recompiled: {reason}" in error
    assert program(HEAD + metrics + "    learning: {cooldown: 1h}\n").learning.on == ()


@pytest.mark.parametrize("budget", ["budget_usd", "monthly_budget_usd"])
def test_a_budget_in_dollars_is_refused_without_a_price(budget: str) -> None:
    learning = METRICS + f"    learning: {{{budget}: 5}}\n"
    assert program(HEAD + learning).learning.reflection_settings is None
    (error,) = errors(HEAD.replace(", price: {input: 0.25, output: 2}", "") + learning)
    assert f"programs.triage.learning.{budget}: a budget in dollars needs the LM's price" in error


def test_a_goal_with_an_error_of_its_own_is_not_missed_as_well() -> None:
    broken = METRICS.replace("exact_match", "exact_mach")
    (error,) = errors(HEAD + broken + "    learning: {on: [drift]}\n")
    assert "exact_mach" in error


def assert_one_error(marked: str, message: str) -> None:
    """The text without `^` has exactly one error, and it is where `^` stood."""
    before = marked[: marked.index("^")]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    found = errors(marked.replace("^", "", 1))
    assert len(found) == 1, found
    assert found[0].startswith(f"ratchet.yaml:{line}:{column}: programs.{message}"), found


def test_a_cost_guardrail_without_a_price_is_refused() -> None:
    guarded = HEAD + "    metrics: {cost: {kind: cost, role: guardrail, margin: 10%}}\n"
    assert program(guarded).guardrails == ["cost"]
    (error,) = errors(guarded.replace(", price: {input: 0.25, output: 2}", ""))
    assert error.startswith("ratchet.yaml:5:15: programs.triage.metrics.cost: a cost guardrail needs the LM's price")


def test_a_free_model_is_priced_at_nothing() -> None:
    free = HEAD.replace("{input: 0.25, output: 2}", "{input: 0, output: 0}")
    assert program(free + "    metrics: {cost: {kind: cost, role: guardrail, margin: 10%}}\n").guardrails == ["cost"]


def test_every_error_is_listed_in_the_order_of_the_file() -> None:
    text = """programs:
  triage:
    signature: "ticket: str -> category: str"
    lm: {model: sim/triage, max_concurrency: 0, num_retries: 9}
    fallback: x
    metrics:
      correct: {kind: exact_match, field: kategory, role: goal}
      rating: {kind: score, range: [5, 1]}
    experiments: {alpha: 2, max_units: 0}
  other: 5
extra: 1
"""
    places = [message.partition(": ")[0].removeprefix("ratchet.yaml:") for message in errors(text)]
    assert places == ["4:46", "4:62", "5:15", "7:43", "8:29", "9:26", "9:40", "10:10", "11:1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ratchet.yaml:1:1: is left empty"),
        ("[]", "ratchet.yaml:1:1: this list is not a mapping"),
        ("programs:\n\t- x", "ratchet.yaml:2:1: "),
        (
            "programs: a: b",
            "ratchet.yaml:1:12: mapping values are not allowed here; put a text that holds ': ' in quotes",
        ),
        ("programs: {}\n---\nprograms: {}", "ratchet.yaml:2:1: expected a single document"),
        ("programs: \x00", "ratchet.yaml:1:11: the character 0x0000 is not allowed"),
        ("programs: !!python/name:os.system {}", "ratchet.yaml:1:11: programs: the tag"),
        ("programs: !!set {a}", "ratchet.yaml:1:11: programs: the tag"),
        ("programs: &a [*a]", "ratchet.yaml:1:11: aliases unfold"),
        ("programs: " + "[" * 100, "ratchet.yaml:1:42: nested more than 32 levels deep"),
        ("programs: {a: 1, a: 2}", "ratchet.yaml:1:18: programs.a: is written twice; first on line 1"),
        ("programs: {[1]: 2}", "ratchet.yaml:1:12: programs: a key is a plain name"),
        ("#" * 300_000, "ratchet.yaml:1:1: 300000 characters are more than the limit"),
    ],
)
def test_what_is_no_definitions_file_is_refused_with_its_place(text: str, message: str) -> None:
    assert any(error.startswith(message) for error in errors(text)), errors(text)


def test_a_few_lines_of_aliases_cannot_fill_the_memory() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    assert "aliases unfold" in errors(bomb)[0]


def test_the_json_schema_of_the_contract_s_keys_is_there() -> None:
    schema = json_schema()
    assert {"programs"} == set(schema["$defs"]["Root"]["properties"])
    assert set(ProgramDefinition.__struct_fields__) == set(schema["$defs"]["ProgramDefinition"]["properties"])
    assert json.loads(json.dumps(schema))["title"] == "ratchet.yaml"


def edited(before: str, after: str, live: tuple[str, ...] = ()) -> list[Change]:
    return changes(read(before, "a").programs, read(after, "b").programs, live)


def test_an_edit_says_what_follows_from_it() -> None:
    (change,) = edited(HEAD, HEAD + "    instructions: Sort it.\n")
    assert (change.kind, change.key, change.new) == ("added", "instructions", "Sort it.")
    assert "off traffic" in change.consequence
    (price,) = edited(HEAD, HEAD.replace("0.25", "0.5"))
    assert (price.key, price.old, price.new) == ("lm.price.input", 0.25, 0.5)
    assert price.consequence == "takes effect at once"


def test_learning_takes_effect_at_once_where_it_says_when_and_in_the_next_run_where_it_says_how() -> None:
    before = HEAD + METRICS + "    learning: {cooldown: 1h, gate: {confidence: 0.9}, max_metric_calls: 200}\n"
    after = before.replace("1h", "2h").replace("0.9", "0.95").replace("200", "300")
    assert {change.key: change.consequence for change in edited(before, after)} == {
        "learning.cooldown": "takes effect at once",
        "learning.gate.confidence": "for compile runs asked for from now on",
        "learning.max_metric_calls": "for compile runs asked for from now on",
    }


def test_a_model_written_short_is_the_same_as_written_long() -> None:
    assert edited(HEAD.replace("{model: sim/triage, price: {input: 0.25, output: 2}}", "sim/triage"),
                  HEAD.replace(", price: {input: 0.25, output: 2}", "")) == []  # fmt: skip


def test_other_fields_are_refused_while_an_experiment_runs() -> None:
    other = HEAD.replace("category: str", "kind: str")
    (alone,) = edited(HEAD, other)
    assert not alone.refused
    assert "a new variant serves at once" in alone.consequence
    (live,) = edited(HEAD, other, live=("triage",))
    assert live.refused


def test_a_metric_that_an_experiment_reads_cannot_change_its_meaning() -> None:
    renamed = METRICS.replace("field: category", "field: urgency")
    (live,) = edited(HEAD + METRICS, HEAD + renamed, live=("triage",))
    assert live.refused
    (unused,) = edited(HEAD + METRICS, HEAD + METRICS.replace("}}", "}, new: {kind: boolean}}"), live=("triage",))[:1]
    assert not unused.refused


def test_a_program_comes_and_goes() -> None:
    more = HEAD + "  other: {signature: a -> b, lm: sim/triage}\n"
    assert [(c.program, c.kind) for c in edited(HEAD, more)] == [("other", "added")]
    assert [(c.program, c.kind, c.refused) for c in edited(more, HEAD)] == [("other", "removed", False)]
    assert edited(more, HEAD, live=("other",))[0].refused


def test_a_definition_holds_an_lm_for_every_way_of_writing_it() -> None:
    assert program(HEAD).lm_settings == LmSettings(model="sim/triage", price=program(HEAD).lm_settings.price)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="not UTF-8"):
        read_file(tmp_path / "bad.yaml")


def test_cheaper_is_refused_without_saying_how_much_worse_is_still_as_good() -> None:
    objective = "    experiments: {objective: as_good_and_cheaper}\n"
    goal = "    metrics: {solved: {kind: boolean, role: goal, margin: 2%}}\n"
    assert program(HEAD + goal + objective).experiments.objective == "as_good_and_cheaper"
    (error,) = errors(HEAD + goal.replace(", margin: 2%", "") + objective)
    assert error.startswith(
        "ratchet.yaml:5:15: programs.triage.metrics.solved: as_good_and_cheaper needs `margin` here"
    )
