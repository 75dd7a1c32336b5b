"""How a program's fields are put to a model: DSPy's own adapters, and a plain one for models too small for those."""

import re
from typing import Any, Literal, get_args, get_origin
from weakref import WeakKeyDictionary

import dspy
from dspy.adapters.utils import format_field_value, parse_value
from dspy.utils.exceptions import AdapterParseError

from experiments.errors import Invalid

Signature = type[dspy.Signature]
Message = dict[str, Any]


def remembering(adapter: dspy.Adapter) -> dspy.Adapter:
    """The adapter, which from now on writes a signature's system message once: a tenth of a request's CPU.

    The message depends on the signature and nothing else; it is forgotten with it.
    """
    written: WeakKeyDictionary[Signature, str] = WeakKeyDictionary()
    write = adapter.format_system_message

    def once(signature: Signature) -> str:
        if (message := written.get(signature)) is None:
            message = written[signature] = write(signature)
        return message

    adapter.format_system_message = once
    return adapter


class PlainAdapter(dspy.Adapter):  # type: ignore[misc]  # DSPy ships no types
    """One user message: the instruction with its `{field}` slots filled; inputs without a slot follow it.

    Demonstrations become turns of the same form. The answer is the one output field. An LM whose engine has
    `picks_from_choices` is told the choices of a Literal as a JSON schema `{"enum": [...]}` and writes one of them.
    """

    def __call__(self, lm: Any, lm_kwargs: dict[str, Any], signature: Signature, demos: Any, inputs: Any) -> Any:
        """One call, blocking; as in `dspy.Adapter`."""
        return super().__call__(lm, _with_choices(lm, lm_kwargs, signature), signature, demos, inputs)

    async def acall(self, lm: Any, lm_kwargs: dict[str, Any], signature: Signature, demos: Any, inputs: Any) -> Any:
        """One call; as in `dspy.Adapter`."""
        return await super().acall(lm, _with_choices(lm, lm_kwargs, signature), signature, demos, inputs)

    def format(self, signature: Signature, demos: list[Message], inputs: dict[str, Any]) -> list[Message]:
        """The messages: a pair for each demonstration, then the one to be answered."""
        output = only_output(signature)
        shown = [demo for demo in demos if output in demo]
        turns = [
            turn
            for demo in shown
            for turn in (_user(signature, demo), {"role": "assistant", "content": str(demo[output])})
        ]
        return [*turns, _user(signature, inputs)]

    def parse(self, signature: Signature, completion: str) -> dict[str, Any]:
        """Raises: AdapterParseError where the text is no value of the output field's type."""
        name = only_output(signature)
        annotation = signature.output_fields[name].annotation
        text = completion.strip()
        try:
            if get_origin(annotation) is Literal:
                return {name: _choice(text, get_args(annotation))}
            return {name: parse_value(text, annotation)}
        except ValueError as error:
            raise AdapterParseError("PlainAdapter", signature, completion, message=str(error)) from error


def only_output(signature: Signature) -> str:
    """The name of the one output field. Raises: Invalid when there are several."""
    if len(signature.output_fields) == 1:
        return str(next(iter(signature.output_fields)))
    fields = ", ".join(signature.output_fields)
    raise Invalid.at(
        "/lm/adapter", f"the plain adapter reads one output field, and here are {fields}; use `module: predict` or chat"
    )


def _with_choices(lm: Any, lm_kwargs: dict[str, Any], signature: Signature) -> dict[str, Any]:
    annotation = signature.output_fields[only_output(signature)].annotation
    if get_origin(annotation) is not Literal or not getattr(lm.engine, "picks_from_choices", False):
        return lm_kwargs
    schema = {"name": "choice", "schema": {"enum": [str(choice) for choice in get_args(annotation)]}}
    return {**lm_kwargs, "response_format": {"type": "json_schema", "json_schema": schema}}


def _user(signature: Signature, values: dict[str, Any]) -> Message:
    """The instruction for these values; filled in one pass, so that a value that looks like a slot stays as it is."""
    shown = {
        name: str(format_field_value(field, values.get(name, ""))) for name, field in signature.input_fields.items()
    }
    template = signature.instructions
    slots = re.compile(r"\{(" + "|".join(map(re.escape, shown)) + r")\}")
    used = set(slots.findall(template))
    rest = {name: value for name, value in shown.items() if name not in used}
    filled = slots.sub(lambda match: shown[match[1]], template)
    follows = list(rest.values()) if len(shown) == 1 else [f"{name}: {value}" for name, value in rest.items()]
    return {"role": "user", "content": "\n\n".join([filled, *follows])}


def _choice(text: str, choices: tuple[Any, ...]) -> Any:
    """The choice that a text names: as it stands, without case and punctuation, or as the only one mentioned."""
    plain = text.strip(" \t\n\"'`*.:!").casefold()
    for choice in choices:
        if plain == str(choice).casefold():
            return choice
    mentioned = [c for c in choices if re.search(rf"(?<!\w){re.escape(str(c))}(?!\w)", text, re.IGNORECASE)]
    if len(mentioned) == 1:
        return mentioned[0]
    raise ValueError(f"{text[:80]!r} is none of {', '.join(map(str, choices))}")
