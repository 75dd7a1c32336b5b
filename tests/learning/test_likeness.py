"""Near-duplicates: what is alike, what only shares a form, and that hardly a pair is missed."""

import random
from itertools import combinations

import pytest

from learning.feedback.likeness import LIKE, groups

TICKET = (
    "Good morning, since the last update the page of Planner freezes whenever I open a large file, and after a minute "
    "it goes on as if nothing had happened. I have tried another browser and a smaller file. Kind regards, Ana"
)


def together(*texts: str) -> bool:
    return len(set(groups([{"ticket": text} for text in texts]))) == 1


@pytest.mark.parametrize(
    "other",
    [
        TICKET.upper(),
        TICKET.replace(" ", "\n "),
        TICKET.replace("Ana", "Tom"),
        TICKET.replace("Good morning, ", ""),
    ],
)
def test_the_same_words_or_nearly_so_are_alike(other):
    assert together(TICKET, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TICKET, TICKET[::-1]),
        (TICKET, TICKET[: len(TICKET) // 2]),
        ("2+2", "2-2"),
        ("refund", "refunds"),
        ("I need a refund", "I need an invoice"),
    ],
)
def test_other_words_and_other_signs_are_not_alike(one, other):
    assert not together(one, other)


def test_fields_are_told_apart_and_values_of_any_type_count():
    assert len(set(groups([{"a": "x", "b": "y"}, {"a": "y", "b": "x"}]))) == 2
    assert len(set(groups([{"a": 1.5, "b": [1]}, {"b": [1], "a": 1.5}, {"a": 1.5, "b": [2]}]))) == 2
    assert groups([]) == []
    assert groups([{"a": ""}, {"a": ""}]) == [0, 0]


def test_what_goes_with_every_input_does_not_make_them_alike():
    asked = [{"document": TICKET * 5, "question": f"what is the {n}th word of it"} for n in range(50)]
    assert len(set(groups(asked))) == 50
    assert len(set(groups([*asked, *asked]))) == 50


def test_alike_is_passed_on():
    words = [f"word{n}" for n in range(200)]
    chain = [" ".join([*words[10 * step :], *words[: 10 * step]]) for step in range(4)]
    assert together(*chain)


def test_hardly_a_pair_of_near_duplicates_is_missed():
    draw = random.Random(1)
    vocabulary = [f"w{n}" for n in range(3000)]
    texts = [[draw.choice(vocabulary) for _ in range(draw.randint(20, 80))] for _ in range(400)]
    for text in list(texts):
        changed = list(text)
        for _ in range(draw.randint(1, max(1, len(text) // 20))):
            changed[draw.randrange(len(text))] = draw.choice(vocabulary)
        texts.append(changed)
    sets = [set(zip(text[:-2], text[1:-1], text[2:], strict=True)) for text in (["t", ":", *text] for text in texts)]
    pairs = [(a, b) for a, b in combinations(range(800), 2) if len(sets[a] & sets[b]) >= LIKE * len(sets[a] | sets[b])]
    found = groups([{"t": " ".join(text)} for text in texts])
    missed = [(a, b) for a, b in pairs if found[a] != found[b]]
    assert len(pairs) > 200
    assert len(missed) <= 0.01 * len(pairs)
    assert len(set(found)) >= 400
