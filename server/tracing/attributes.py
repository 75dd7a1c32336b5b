"""What a span says of a try and of a call: names by `conventions.py`, values from the facts."""

import json
from typing import Any

import msgspec

from experiments.facts import Prediction
from experiments.quantities import dollars
from learning.trails import Exchange, LmCall, Try
from server.tracing import conventions as name

Value = str | int | list[str]


def of_try(prediction: Prediction, step: Try) -> dict[str, Value]:
    """One variant's attempt at a prediction."""
    return {name.OPERATION: name.INVOKE_WORKFLOW, name.WORKFLOW: prediction.program, **_whose(prediction, step)}


def of_call(prediction: Prediction, step: Try, call: LmCall) -> dict[str, Value]:
    """One call of a language model within such an attempt. What nobody reported is left out."""
    provider, model = name.provider_and_model(call.model)
    said: dict[str, Value | None] = {
        name.OPERATION: name.CHAT,
        name.PROVIDER: provider,
        name.REQUEST_MODEL: model,
        name.RESPONSE_MODEL: call.answered_by,
        name.FINISH_REASONS: [call.finish] if call.finish else None,
        **_billed(call),
        **_spoken(call),
    }
    return {**{key: value for key, value in said.items() if value is not None}, **_whose(prediction, step)}


def call_name(call: LmCall) -> str:
    """The name of a call's span."""
    return f"{name.CHAT} {name.provider_and_model(call.model)[1]}"


def _whose(prediction: Prediction, step: Try) -> dict[str, Value]:
    told: dict[str, Value] = {
        name.PROGRAM: prediction.program,
        name.VARIANT: step.variant,
        name.ASSIGNED_VARIANT: prediction.assigned_variant,
        name.PREDICTION: prediction.prediction_id,
    }
    return told if prediction.experiment_id is None else {**told, name.EXPERIMENT: prediction.experiment_id}


def _billed(call: LmCall) -> dict[str, Value | None]:
    if (bill := call.bill) is None:
        return {}
    return {
        name.INPUT_TOKENS: bill.input_tokens or None,  # no call is made of none: it was not reported
        name.OUTPUT_TOKENS: bill.output_tokens or None,
        name.COST: None if bill.cost is None else dollars(bill.cost),
    }


def _spoken(call: LmCall) -> dict[str, Value | None]:
    if (exchange := call.exchange) is None:
        return {}
    asked = [{"role": one.get("role", "user"), "parts": _parts(one.get("content"))} for one in exchange.messages]
    return {name.INPUT_MESSAGES: _json(asked), name.OUTPUT_MESSAGES: _json(_answers(exchange, call.finish))}


def _answers(exchange: Exchange, finish: str | None) -> list[dict[str, Any]]:
    return [
        {"role": "assistant", "parts": _parts(output), "finish_reason": finish or "unknown"}
        for output in exchange.outputs
    ]


def _parts(content: Any) -> list[Any]:
    """Content as the conventions want it: parts, each with its type. What DSPy gives in parts stays as it is."""
    if isinstance(content, dict) and isinstance(content.get("text"), str):  # a text with what came beside it
        content = content["text"]
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    return content if isinstance(content, list) else [{"type": "other", "content": content}]


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=repr).decode()
    except UnicodeEncodeError:  # half of a surrogate pair in an answer, which only an escape can tell
        return json.dumps(value, default=repr)
