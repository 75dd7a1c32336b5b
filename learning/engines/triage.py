"""The world that `sim/triage` lives in: the words of a support desk, and an endless stream of its tickets.

Every ticket is about one thing, named by a *cue* such as "refund"; the cue decides its category. Some tickets begin
with a courtesy about something else, so that the first cue misleads and the last one is right. At a *shift* customers
begin to write about a new product: its cues are words the simulated model has never seen.
"""

import re
from hashlib import blake2b
from typing import Any, Literal, get_args

import msgspec

Label = Literal["billing", "bug", "how-to", "other"]
LABELS: tuple[Label, ...] = get_args(Label)
MISLEADING = 0.15
"""Share of tickets that begin with a cue of another category."""

_WEIGHTS: tuple[Label, ...] = ("billing",) * 6 + ("bug",) * 6 + ("how-to",) * 5 + ("other",) * 3

# Sentences by category; what stands between asterisks is the cue, without its ending.
_KNOWN: dict[Label, str] = {
    "billing": """
        I would like a *refund* for {product}
        We cancelled {when} and the *refund* has not arrived
        Could you send the *invoice* for {product} again
        The *invoice* {when} shows the wrong company name
        There is a *charge* on my card that I do not recognise
        You *charge*d us twice for {product} {when}
        My *payment* was declined although the card is fine
        We made a *payment* {when} but the account still says unpaid
        I need a *receipt* for my expense report
        The *receipt* from {since} has no date on it
        Please end our *subscription* at the end of the month
        Why did our *subscription* to {product} go up
        The *discount* you promised is missing
        Is there a *discount* for schools
        The *coupon* from your mail is refused at checkout
        Our *renewal* came a month too early
        I did not agree to the *renewal* of {product}
        What is the *price* of {product} for twelve people
        The *price* on the site differs from what we pay
        Please remove the *tax*, we are a charity
        Our accountant says the *tax* number is missing
        Can we pay the yearly *fee* in two parts
    """,
    "bug": """
        {product} *crash*es when I open a large file
        We see a *crash* every morning since {since}
        I get an *error* each time I press save
        Since {since} there is an *error* on every page of {product}
        The page *freeze*s for a minute and then goes on
        There is a *glitch* in the calendar of {product}
        A *glitch* shows every name twice
        Every upload ends in a *timeout*
        {product} reports a *timeout* after ten seconds
        The editor has a terrible *lag* since {since}
        Since {since} {product} stays *blank*
        I only see a *blank* page after signing in
        The list shows a *duplicate* of each row
        There is an *exception* in the log of {product}
        The wizard runs in a *loop* and never ends
        After the upgrade search is *broken*
        The button below the form is *broken*
        My drafts *vanish* when I close the window
        All comments *vanish*ed {when}
        The totals are *incorrect* since {since}
        The map shows *incorrect* addresses
    """,
    "how-to": """
        How do I *export* everything to a spreadsheet
        I want to *export* one project from {product}
        Can I *import* my contacts from another program
        We would like to *import* last year's data
        Where do I find the *template* for letters
        Which *shortcut* opens the search box
        Is there a *shortcut* for the next page
        Is there a *tutorial* for beginners
        Please point me to the *guide* for {product}
        Who can give a colleague *permission* to edit
        I forgot my *password*, what should I do
        How do I change my *password* in {product}
        How can I *filter* the table by date
        I would like to *schedule* a message for Monday
        How do I *schedule* a weekly summary in {product}
        Can I *rename* a folder later
        How do I *rename* our team
        What are the steps to *archive* a project
        Can we *merge* two accounts into one
        I need to *invite* a new colleague to {product}
        Where do I *configure* the language
    """,
    "other": """
        We are interested in a *partnership* with you
        Who is responsible for *partnership*s in Europe
        Do you offer an *internship* next summer
        I would like to leave your *newsletter*
        A journalist asks for an *interview* with your founder
        Would you consider a *sponsorship* of our club
        I write my *thesis* about companies like yours
        We would like to invite you to our *podcast*
        Is there any *vacancy* in your design team
        I just want to say *congratulations* on ten years
        Your new office has a beautiful *mural*
        Do you make a *donation* to schools
    """,
}
_NEW: dict[Label, str] = {
    "billing": """
        Our *credit*s were used up after one day
        How many *credit*s does {product} cost for one run
        We were billed for an *overage* {when}
        Please explain the *overage* on our account
        We pay for a *seat* that nobody uses
        One *seat* too many appears since {since}
        The *wallet* was filled but shows zero
        Please move the *wallet* to another company
        The *tier* we bought is not the one we see
    """,
    "bug": """
        The *agent* answers with nonsense since {since}
        Our *agent* in {product} stops half way
        My *passkey* is refused on the phone
        Since {since} no *passkey* works any more
        The *webhook* fires three times
        Our *webhook* has been silent since {since}
        The *sandbox* never starts
        The *sandbox* of {product} loses its files
        The *copilot* suggests things in the wrong language
    """,
    "how-to": """
        How do I share a *workspace* with a client
        Can I move a *workspace* to another region
        I would like an *automation* that mails the team
        Which *automation* fits {product}
        How do I build a *dashboard* for my boss
        Can a *dashboard* be public
        What do I need for the *connector* to our shop
        Which *connector* reads spreadsheets
        Where do I write a *playbook* for the team
    """,
    "other": """
        May we join the *beta* of the next version
        Please take us off the *beta* programme
        What is on your *roadmap* for next year
        I would like to become an *ambassador* in Spain
        Will there be a *hackathon* this year
        How long is the *waitlist* at the moment
    """,
}
_OPENERS = (
    "", "", "", "Hello,", "Hi there,", "Good morning,", "Dear team,", "Hi,", "To whom it may concern,",
    "I am writing about {product}.", "We have used {product} for years.", "Customer for three years here.",
    "My colleague told me to write to you.", "This is my second message.",
)  # fmt: skip
_COURTESIES = (
    "Thank you for your help with the {cue} {when}.", "Your answer about the {cue} was very kind.",
    "This is not about the {cue} I wrote about {when}.", "The matter of the {cue} is settled, thanks.",
)  # fmt: skip
_CLOSERS = (
    "", "", "", "Thanks!", "Thank you in advance.", "It is rather urgent.", "No hurry.", "Can you help?",
    "Kind regards, Ana", "Best, Tom", "Please call me back.", "I have tried everything.", "Many thanks from Lisbon.",
    "This matters for our whole team.", "We decide on Friday.",
)  # fmt: skip
_PRODUCTS = (
    "the mobile app", "the desk edition", "Planner", "the web version", "Planner Pro", "the team plan", "Notes",
    "Boards",
)  # fmt: skip
_WHENS = ("yesterday", "last week", "on Monday", "in March", "two days ago", "last night", "this morning", "on the 3rd")
_SINCE = ("yesterday", "last week", "Monday", "March", "the last update", "the weekend", "this morning", "the 3rd")


class Ticket(msgspec.Struct, frozen=True):
    """What a customer wrote, and the category it truly belongs to."""

    text: str
    label: Label


def ticket(seed: int, index: int, *, shift: float = 0.0) -> Ticket:
    """The ticket number `index` of the stream `seed`: pure, and the same in every process.

    `shift` is the share of tickets about the new product, from 0 to 1.
    """
    draw = Draw(seed, index, "ticket")
    label = draw.pick(_WEIGHTS)
    new = draw.share() < shift
    slots = {"product": draw.pick(_PRODUCTS), "when": draw.pick(_WHENS), "since": draw.pick(_SINCE)}
    opener, closer = draw.pick(_OPENERS), draw.pick(_CLOSERS)
    courtesy = ""
    if draw.share() < MISLEADING:
        elsewhere = draw.pick([other for other in LABELS if other != label])
        courtesy = draw.pick(_COURTESIES).replace("{cue}", draw.pick(_NOUNS[elsewhere]))
    request = draw.pick(_SENTENCES[new, label])
    ending = "?" if request.startswith(_QUESTIONS) else "."
    words = " ".join(part for part in (opener, courtesy, request + ending, closer) if part)
    text = words.format(**slots)
    return Ticket(text.lower() if draw.share() < 0.1 else text, label)


def tickets(seed: int, n: int, *, start: int = 0, shift: float = 0.0) -> list[Ticket]:
    """`n` tickets of the stream `seed`, beginning with number `start`."""
    return [ticket(seed, index, shift=shift) for index in range(start, start + n)]


def rulebook(*, shifted: bool = False) -> str:
    """The best instruction there is: to read carefully, and a rule for every cue, when `shifted` the new ones too."""
    known = CUES if shifted else {cue: label for cue, label in CUES.items() if cue not in NEW_CUES}
    lines = [f"{label}: " + ", ".join(cue for cue in known if known[cue] == label) for label in LABELS]
    return "Read the whole ticket carefully before you choose its category.\n" + "\n".join(lines)


def cues(text: str) -> list[str]:
    """The cues a text mentions, in its order, whatever their ending ("crashes" mentions crash)."""
    return [cue for word in re.findall(r"[a-z]+", text.lower()) if (cue := _FORMS.get(word))]


def akin(cue: str) -> list[str]:
    """The cue and the words that whoever speaks the language would think of with it, up to three in all."""
    kin = [other for other in CUES if CUES[other] == CUES[cue] and (other in NEW_CUES) == (cue in NEW_CUES)]
    group = kin.index(cue) // 3 * 3
    return kin[group : group + 3]


class Draw:
    """Choices that depend on nothing but what they are for; unlike a random generator, alike in every version."""

    def __init__(self, *purpose: object) -> None:
        digest = blake2b("\0".join(map(str, purpose)).encode("utf-8", "surrogatepass"), digest_size=64).digest()
        self._rest = int.from_bytes(digest)

    def pick(self, options: Any) -> Any:
        """One of the options, each equally likely."""
        self._rest, at = divmod(self._rest, len(options))
        return options[at]

    def share(self) -> float:
        """A number from 0 to below 1, in steps of a millionth."""
        return float(self.pick(range(1_000_000))) / 1_000_000


def _sentences(text: str) -> list[str]:
    return [line.strip().replace("*", "") for line in text.strip().splitlines()]


def _cues(texts: dict[Label, str]) -> dict[str, Label]:
    return {cue: label for label, text in texts.items() for cue in re.findall(r"\*(\w+)\*", text)}


CUES: dict[str, Label] = _cues(_KNOWN) | _cues(_NEW)
"""The category that each cue decides."""
NEW_CUES = frozenset(_cues(_NEW))
"""The cues that come up only after a shift."""

_FORMS = {cue + ending: cue for cue in CUES for ending in ("", "s", "es", "d", "ed", "ing")}
_SENTENCES = {(new, label): _sentences(text) for new, era in enumerate((_KNOWN, _NEW)) for label, text in era.items()}
_NO_NOUNS = {*cues("blank broken vanish incorrect"), *cues("rename archive merge invite configure congratulations")}
_NOUNS = {label: [c for c in CUES if CUES[c] == label and c not in NEW_CUES | _NO_NOUNS] for label in LABELS}
_QUESTIONS = ("How", "Can", "Could", "Where", "Which", "Is", "Who", "What", "Why", "Do", "Would", "Will", "May")
