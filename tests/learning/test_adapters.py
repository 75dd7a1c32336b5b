"""The plain adapter: what a small model is shown, and what is read from what it says."""

import gc
import weakref
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError

from experiments.errors import Invalid
from learning.adapters import PlainAdapter, remembering

ADAPTER = PlainAdapter()


def signature(instructions: str, fields: str = "text -> label: Literal['positive', 'negative']") -> Any:
    return dspy.Signature(fields).with_instructions(instructions)


def shown(made: Any, inputs: dict[str, Any], demos: list[dict[str, Any]] | None = None) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in ADAPTER.format(made, demos or [], inputs)]


def test_slots_are_filled_and_nothing_else_is_said() -> None:
    made = signature("Is this positive? Review: {text} Answer.")
    assert shown(made, {"text": "fine film"}) == [("user", "Is this positive? Review: fine film Answer.")]


def test_inputs_without_a_slot_follow_the_instruction() -> None:
    assert shown(signature("Classify."), {"text": "fine"}) == [("user", "Classify.\n\nfine")]
    two = signature("About {title}.", "title, text -> label")
    assert shown(two, {"title": "Up", "text": "fine"}) == [("user", "About Up.\n\ntext: fine")]


def test_a_value_that_looks_like_a_slot_stays_as_it_is() -> None:
    made = signature("{title}: {text}", "title, text -> label")
    assert shown(made, {"title": "{text}", "text": "{title}"}) == [("user", "{text}: {title}")]


def test_braces_that_name_no_field_stay_as_they_are() -> None:
    assert shown(signature("Use {json}: {text}"), {"text": "x"}) == [("user", "Use {json}: x")]


def test_demonstrations_are_turns_of_the_same_form() -> None:
    demos = [{"text": "awful", "label": "negative"}, {"text": "without an answer"}]
    assert shown(signature("Review: {text}"), {"text": "nice"}, demos) == [
        ("user", "Review: awful"),
        ("assistant", "negative"),
        ("user", "Review: nice"),
    ]


@pytest.mark.parametrize("said", ["positive", " Positive.\n", '"POSITIVE"', "I think it is positive!", "**positive**"])
def test_a_choice_is_recognised_however_it_is_dressed(said: str) -> None:
    assert ADAPTER.parse(signature("?"), said) == {"label": "positive"}


@pytest.mark.parametrize("said", ["", "maybe", "positive or negative", "positively"])
def test_what_names_no_single_choice_is_an_error_and_not_a_guess(said: str) -> None:
    with pytest.raises(AdapterParseError):
        ADAPTER.parse(signature("?"), said)


def test_other_types_are_read_as_dspy_reads_them() -> None:
    assert ADAPTER.parse(signature("?", "text -> n: int"), " 12 ") == {"n": 12}
    assert ADAPTER.parse(signature("?", "text -> answer"), " Paris. ") == {"answer": "Paris."}
    with pytest.raises(AdapterParseError):
        ADAPTER.parse(signature("?", "text -> n: int"), "twelve")


def test_several_output_fields_are_refused_by_name() -> None:
    with pytest.raises(Invalid, match="reasoning, label"):
        shown(signature("?", "text -> reasoning, label"), {"text": "x"})


@pytest.mark.parametrize("kind", [dspy.ChatAdapter, dspy.JSONAdapter])
def test_a_system_message_is_written_once_and_forgotten_with_its_signature(kind: type[dspy.Adapter]) -> None:
    class Noting(kind):  # type: ignore[misc]  # DSPy ships no types
        def format_system_message(self, made: Any) -> Any:
            written.append(made.instructions)
            return super().format_system_message(made)

    written: list[str] = []
    adapter, plain = remembering(Noting()), kind()
    first, second = signature("Classify."), signature("Decide.")
    for made in (first, second, first):
        assert adapter.format(made, [], {"text": "fine"}) == plain.format(made, [], {"text": "fine"})
    assert written == ["Classify.", "Decide."]
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None
