"""Training text in instructions is found; what the operator wrote, and what everybody says, is not mistaken for it."""

from learning.compiling.copying import copied
from learning.states import State

TICKET = "Hello, my invoice from March shows the wrong company name and I cannot pay it. Call 0049 30 1234567."
SHOWN = [
    {"ticket": TICKET, "category": "billing"},
    {"ticket": "please help me with it", "mail": "Ana <ana@example.org>"},
]


def state(text: str) -> State:
    return {"predict": {"instructions": text, "demos": [{"ticket": TICKET}]}}


def found(text: str, champion: str = "Sort the ticket.") -> tuple[str, ...]:
    return copied(state(text), state(champion), SHOWN)


def test_a_passage_is_quoted_as_long_as_it_runs() -> None:
    text = "Sort the ticket. For example: MY INVOICE, from March, shows the wrong company name and... is billing."
    assert found(text) == ("MY INVOICE, from March, shows the wrong company name and",)


def test_a_short_text_is_found_only_whole() -> None:
    assert found("If they say 'Please help me with it', choose other.") == ("Please help me with it",)
    assert found("If they say 'please help me with', choose other.") == ()


def test_rules_made_of_single_words_are_no_copies() -> None:
    assert found("Sort the ticket.\nbilling: invoice, company, name\nRead the whole ticket carefully.") == ()


def test_addresses_and_numbers_are_telling_in_themselves() -> None:
    assert found("Tickets of ana@example.org or 0049 30 1234567 are billing.") == ("ana@example.org", "0049 30 1234567")


def test_what_the_champion_said_already_is_no_copy() -> None:
    passage = "my invoice from March shows the wrong company name"
    assert found(f"Better: {passage}", champion=passage) == ()


def test_several_passages_are_told_apart() -> None:
    text = "my invoice from March shows the wrong company name; elsewhere: please help me with it"
    assert len(found(text)) == 2
