"""The simulated language model `sim/WORLD`: no key, no cost, and answers that truly depend on the instruction.

It reads what DSPy's chat and JSON adapters write and answers in the format asked for. It knows some words of its
world, learns others from demonstrations, and obeys the rules it finds in the instruction, in most natural wordings
("Refunds and invoices are billing", "bug: crash, error"). Told to read carefully, it reads to the end. For the
reflection step of an optimiser it writes rules from feedback. The same seed, instruction and input give the same answer
in every process; the model name in its responses says `simulated`.
"""

import asyncio
import json
import re
import time
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import msgspec
from dspy.lm15 import Message, Request, Response, ServerError, Usage

from experiments.errors import Invalid, nearest
from experiments.quantities import SECOND, duration
from learning.engines.phrases import Phrases
from learning.engines.triage import CUES, LABELS, NEW_CUES, Draw, Label, akin, cues

WORLDS = ("triage", "phrases")
T = TypeVar("T", bound=msgspec.Struct)
_CAREFUL = re.compile(r"careful|thorough|step by step|whole ticket|entire|to the end|closely|attentive", re.IGNORECASE)
_LABEL = re.compile(
    r"(?P<not>\b(?:not|never|than|of)\s+)?"
    r"(?:(?<![\w-])(?P<plain>billing|bug|how-to)s?(?![\w-])"
    r"|(?:[\"'`*]|\b(?:is|are|as|answer|choose|label|say|to)\s+|(?:=|->|=>|→)\s*|^[\s*-]*)(?P<other>other)\b)",
    re.IGNORECASE,
)


class World(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a simulated model.

    `latency` is the mean duration of a call and `jitter` how far a call may be from it, as a share. `error_rate` is the
    share of inputs whose calls fail, however often they are tried. `noise` is the share of answers that come out wrong
    whatever the model knows; `knows`, the share of its world's original words that it knows without being told. With a
    `pool`, what it proposes as an instruction comes from there.
    """

    seed: int = 0
    latency: str | float = 0
    jitter: float = 0.2
    error_rate: float = 0.0
    noise: float = 0.05
    knows: float = 0.5
    pool: Phrases | None = None

    def __post_init__(self) -> None:
        duration(self.latency)
        for name in ("jitter", "error_rate", "noise", "knows"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1")


def world(name: str, options: dict[str, Any]) -> World:
    """The options of the world `name`; those of `phrases` are in its own. Raises: Invalid at /model or /options."""
    if name not in WORLDS:
        raise Invalid.at("/model", f"there is no simulated model 'sim/{name}'; {nearest(name, WORLDS)}")
    if name == "phrases":
        return World(pool=_options(options, Phrases))
    return _options(options, World)


def _options(written: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(written, kind)
    except msgspec.ValidationError as error:
        raise Invalid.at("/options", f"{error}. Allowed: {', '.join(kind.__struct_fields__)}") from None


class Prompt(msgspec.Struct, frozen=True):
    """What a system message of DSPy's adapters says: `outputs` maps each output field to its type as printed."""

    instruction: str
    inputs: tuple[str, ...]
    outputs: dict[str, str]
    as_json: bool


class Simulation:
    """The model itself, without the calling: what it answers to a request, and how long that takes."""

    def __init__(self, options: World) -> None:
        self.options = options
        self._mean = duration(options.latency) / SECOND
        by_label = {label: [cue for cue, of in CUES.items() if of == label and cue not in NEW_CUES] for label in LABELS}
        self._innate = {cue: label for label in LABELS for cue in self._some(by_label[label])}

    def _some(self, words: list[str]) -> list[str]:
        """The share of `words` that is known from the start; which ones depends on the seed alone."""
        shuffled = sorted(words, key=lambda word: Draw(self.options.seed, word, "knows").share())
        return shuffled[: round(self.options.knows * len(words))]

    def respond(self, request: Request) -> tuple[Response, float]:
        """The response and the seconds it takes. Raises: ServerError for the share of inputs that fails."""
        system = request.system if isinstance(request.system, str) else ""
        asked = request.messages[-1].text or ""
        prompt = read_system(system)
        draw = Draw(self.options.seed, prompt.instruction, asked)
        if draw.share() < self.options.error_rate:
            raise ServerError("the simulated model fails on this input", retry_after=0.0)
        seconds = self._mean * (1 + self.options.jitter * (2 * draw.share() - 1))
        text = _render(prompt, {name: self._value(prompt, request, name, draw) for name in prompt.outputs})
        read = len(system) + sum(len(message.text or "") for message in request.messages)
        usage = Usage(input_tokens=read // 4 + 1, output_tokens=len(text) // 4 + 1)
        message = Message.assistant(text)
        model = f"simulated:{request.model}"
        return Response(id="simulated", model=model, message=message, finish_reason="stop", usage=usage), seconds

    def _value(self, prompt: Prompt, request: Request, field: str, draw: Draw) -> Any:
        given = read_fields(request.messages[-1].text or "", prompt.inputs)
        if field == "new_instruction" and "examples_with_feedback" in given:
            if self.options.pool is not None:
                return self.options.pool.propose(request, given.get("current_instruction", ""))
            return reflect(given.get("current_instruction", ""), given["examples_with_feedback"])
        label = self._label(prompt, request, " ".join(given.values()))
        if field == "reasoning":
            return f"The simulated model takes this for {label}."
        return _as_type(prompt.outputs[field], label, draw)

    def _label(self, prompt: Prompt, request: Request, text: str) -> Label:
        learned = {**self._innate, **_shown(request.messages[:-1]), **read_rules(prompt.instruction)}
        known = [learned[cue] for cue in cues(text) if cue in learned]
        draw = Draw(self.options.seed, prompt.instruction, text, "answer")
        guess: Label = draw.pick(LABELS)
        if known:
            guess = known[-1] if _CAREFUL.search(prompt.instruction) else known[0]
        if draw.share() < self.options.noise:
            guess = draw.pick([label for label in LABELS if label != guess])
        return guess


@lru_cache(maxsize=512)
def read_system(system: str) -> Prompt:
    """The parts of the system message that DSPy's chat and JSON adapters write."""
    head, _, instruction = system.partition("your objective is:")
    taken, _, made = head.partition("Your output fields are:")
    fields = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
    inputs = tuple(name for name, _ in fields.findall(taken))
    lines = "\n".join(line.strip() for line in instruction.splitlines()).strip()
    return Prompt(lines, inputs, dict(fields.findall(made)), "Outputs will be a JSON object" in made)


def read_fields(message: str, names: tuple[str, ...]) -> dict[str, str]:
    """The input fields of a user message, by name."""
    body = re.split(r"\n\nRespond with (?:the corresponding output|a JSON object)", message)[0]
    marks = "|".join(map(re.escape, names)) or r"\w+"
    parts = re.split(rf"^\[\[ ## ({marks}) ## \]\]\n", body, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True)) or {"": body}


@lru_cache(maxsize=512)
def read_rules(instruction: str) -> dict[str, Label]:
    """The rules "cue means category" in an instruction, sentence by sentence.

    A category at the head of its sentence governs the cues that follow it, otherwise those before it:

    >>> read_rules("Refunds and invoices are billing. bug: crash, error")
    {'refund': 'billing', 'invoice': 'billing', 'crash': 'bug', 'error': 'bug'}
    """
    rules: dict[str, Label] = {}
    for clause in re.split(r"\n|;|\.(?:\s|$)", instruction):
        rules.update(_clause_rules(clause))
    return rules


def _clause_rules(clause: str) -> dict[str, Label]:
    marks = [(match.start(), _named(match)) for match in _LABEL.finditer(clause) if not match["not"]]
    if not marks:
        return {}
    spans = [0, *(at for at, _ in marks), len(clause)]
    segments = [cues(clause[begin:end]) for begin, end in pairwise(spans)]
    labels = [label for _, label in marks]
    if not segments[0]:
        return {cue: label for label, found in zip(labels, segments[1:], strict=True) for cue in found}
    rules = {cue: label for label, found in zip(labels, segments, strict=False) for cue in found}
    return rules | dict.fromkeys(segments[-1], labels[-1])


def _named(match: re.Match[str]) -> Label:
    named = (match["plain"] or match["other"]).lower()
    return next(label for label in LABELS if label == named)


def reflect(instruction: str, examples: str) -> str:
    """The instruction with what mistakes teach: rules for the cues and the words akin to them, and to read carefully.

    `examples` is the JSON that DSPy's instruction proposer shows, with `Inputs`, `Generated Outputs` and `Feedback`.
    """
    rules, lines = dict(read_rules(instruction)), [instruction]
    for example in _examples(examples):
        found = cues(str(example.get("Inputs", "")))
        right = _corrected(str(example.get("Feedback", "")), str(example.get("Generated Outputs", "")))
        if not found or right is None:
            continue
        if len(set(found)) > 1 and not _CAREFUL.search("\n".join(lines)):
            lines.append("Read the whole ticket carefully: what it mentions last decides.")
        if rules.get(found[-1]) != right:
            learned = akin(found[-1])
            rules.update(dict.fromkeys(learned, right))
            lines.append(f"{right}: {', '.join(learned)}")
    return "\n".join(lines)


def _corrected(feedback: str, answered: str) -> Label | None:
    """The category that a feedback names instead of the one that was answered."""
    named = [label for label in LABELS if re.search(rf"(?<![\w-]){label}(?![\w-])", feedback, re.IGNORECASE)]
    return next((label for label in named if label not in answered.lower()), None)


def _examples(written: str) -> list[dict[str, Any]]:
    try:
        return [example for example in json.loads(written) if isinstance(example, dict)]
    except ValueError:
        return []


def _shown(messages: tuple[Message, ...]) -> dict[str, Label]:
    """What demonstrations teach: the last cue of each example means the category of its answer."""
    learned: dict[str, Label] = {}
    for shown, answered in zip(messages[::2], messages[1::2], strict=False):
        found = cues(shown.text or "")
        named = [label for label in LABELS if re.search(rf"(?<![\w-]){label}(?![\w-])", answered.text or "")]
        if found and named:
            learned[found[-1]] = named[-1]
    return learned


def _as_type(kind: str, label: Label, draw: Draw) -> Any:
    """The category as a value of the printed type; of a type that has no room for it, any value."""
    if kind.startswith("Literal["):
        options = re.findall(r"'([^']*)'|\"([^\"]*)\"", kind)
        allowed = [single or double for single, double in options]
        return label if label in allowed or not allowed else draw.pick(allowed)
    plain = {"bool": draw.share() < 0.5, "int": int(draw.share() * 10), "float": round(draw.share(), 3)}
    return plain.get(kind, label)


def _render(prompt: Prompt, values: dict[str, Any]) -> str:
    if prompt.as_json:
        return json.dumps(values, ensure_ascii=False)
    return "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in values.items()) + "[[ ## completed ## ]]"


class SimulatedEngine:
    """Answers on the calling thread."""

    def __init__(self, options: World) -> None:
        self._simulation = Simulation(options)

    def complete(self, request: Request) -> Response:
        """Raises: ServerError."""
        response, seconds = self._simulation.respond(request)
        if seconds:
            time.sleep(seconds)
        return response


class AsyncSimulatedEngine:
    """Answers on the event loop."""

    def __init__(self, options: World) -> None:
        self._simulation = Simulation(options)

    async def complete(self, request: Request) -> Response:
        """Raises: ServerError."""
        response, seconds = self._simulation.respond(request)
        if seconds:
            await asyncio.sleep(seconds)
        return response
