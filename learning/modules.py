"""DSPy modules from what a definition says: built-in ones by signature string, an operator's own by import path.

Importing a module by path runs its code, which is what the operator asked for. Whatever goes wrong on the way is the
definition's fault, so every function here raises Invalid with the pointer of the definition's key.
"""

import importlib
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import dspy

from experiments.errors import Invalid, nearest
from learning.signatures import parse
from learning.values import fit

_TAKEN = frozenset({"self", "instance", "signature", "demos", "config", "lm", "new_signature", "completions"})
"""Names that DSPy takes for itself when a program is called; a field so called would never arrive."""


class Single(dspy.Module):  # type: ignore[misc]  # DSPy ships no types
    """A lone Predict under the name that ChainOfThought gives its own: `predict`."""

    def __init__(self, signature: type[dspy.Signature]) -> None:
        super().__init__()
        self.predict = dspy.Predict(signature)

    def forward(self, **inputs: Any) -> Any:
        """The predictor's answer, as optimizers ask for it."""
        return self.predict(**inputs)

    async def aforward(self, **inputs: Any) -> Any:
        """The predictor's answer."""
        return await self.predict.acall(**inputs)


def build(module: str, signature: str | None) -> dspy.Module:
    """A new module, fit to be improved: all its predictors can be seen, and none has a language model of its own."""
    if module == "predict":
        return Single(_signature(signature or ""))
    if module == "chain_of_thought":
        fields = _signature(signature or "")
        if "reasoning" in fields.fields:
            raise Invalid.at("/signature", "`reasoning` is the field that chain_of_thought adds; choose another name")
        return dspy.ChainOfThought(fields)
    found = _imported(module)
    try:
        built = found()
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the operator's own code
        raise Invalid.at("/module", f"{module} cannot be built without arguments: {said(error)}") from None
    _check_predictors(built, module)
    return built


def outer_signature(module: dspy.Module, path: str, declared: str | None) -> type[dspy.Signature]:
    """What the program as a whole takes and gives: as declared, as its class says, or as its only predictor does."""
    own = declared or getattr(module, "signature", None)
    if isinstance(own, str):
        return _signature(own)
    if inspect.isclass(own) and issubclass(own, dspy.Signature):
        return own
    if len(predictors := module.predictors()) != 1:
        reason = f"{path} has several predictors: say what it takes and gives, here or in its attribute `signature`"
        raise Invalid.at("/signature", reason)
    only: type[dspy.Signature] = predictors[0].signature
    return only


def callable_of(module: dspy.Module, inputs: Iterable[str]) -> Callable[..., Awaitable[Any]]:
    """How the module is awaited: natively, or in a thread when its class only has a `forward`."""
    kind = type(module)
    native = inspect.iscoroutinefunction(getattr(kind, "aforward", None))
    method = kind.aforward if native else getattr(kind, "forward", None)
    if method is None:
        raise Invalid.at("/module", f"{kind.__name__} has neither `async def aforward` nor `def forward`")
    try:
        inspect.signature(method).bind(module, **dict.fromkeys(inputs))
    except TypeError as error:
        reason = f"{kind.__name__}.{method.__name__} cannot be called with the inputs {', '.join(inputs)}: {error}"
        raise Invalid.at("/signature", reason) from None
    inner = module.predict if kind in (Single, dspy.ChainOfThought) else module  # one layer of DSPy less per call
    awaited: Callable[..., Awaitable[Any]] = inner.acall if native else dspy.asyncify(module)
    return awaited


def said(error: BaseException) -> str:
    """An error in one line of at most 500 characters that any database takes."""
    line: str = fit(" ".join(f"{type(error).__name__}: {error}".split())[:500])
    return line.replace("\0", "\\0")


def _signature(written: str) -> type[dspy.Signature]:
    parts = parse(written)
    for name in (*parts.inputs, *parts.outputs):
        if name in _TAKEN or name.startswith("_") or hasattr(dspy.Signature, name):
            raise Invalid.at("/signature", f"{name!r} is a name that DSPy takes for itself; choose another")
    inputs = {name: (kind, dspy.InputField()) for name, kind in parts.inputs.items()}
    outputs = {name: (kind, dspy.OutputField()) for name, kind in parts.outputs.items()}
    made: type[dspy.Signature] = dspy.Signature({**inputs, **outputs})
    return made


def _imported(path: str) -> type[dspy.Module]:
    where, _, name = path.partition(":")
    try:
        namespace = vars(importlib.import_module(where))
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the operator's own code
        reason = f"cannot import {where!r}, which must be importable where the server runs: {said(error)}"
        raise Invalid.at("/module", reason) from None
    classes = [key for key, kind in namespace.items() if inspect.isclass(kind) and issubclass(kind, dspy.Module)]
    if name in classes:
        found: type[dspy.Module] = namespace[name]
        return found
    reason = "is not a subclass of dspy.Module" if name in namespace else "does not exist"
    raise Invalid.at("/module", f"{path} {reason}; {nearest(name, classes)}")


def _check_predictors(module: dspy.Module, path: str) -> None:
    for name, part in module.named_sub_modules(type_=dspy.Module):
        if part is not module and part._compiled:  # noqa: SLF001  # DSPy's mark has no other name
            reason = f"{path}: {name} is frozen, DSPy would save nothing of it; set its `_compiled` to False"
            raise Invalid.at("/module", reason)
    predictors = module.named_predictors()
    if not predictors:
        raise Invalid.at("/module", f"{path} has no dspy.Predict among its attributes: nothing could be improved")
    for name, predictor in predictors:
        if predictor.lm is not None:
            reason = f"{path}: {name} has a language model of its own; leave that to the program's `lm`"
            raise Invalid.at("/module", reason)
