"""Language models ready for use: opened from settings, bounded, and metered to the picodollar.

    lm = open_lm(settings)      # Invalid when it could never answer: a missing key, an unknown provider
    with lm.slots.taken(), metering("base", calls), lm.context():
        prediction = await program.acall(**inputs)

`sim/WORLD` is the simulated model, `local/NAME` a small real one inside this process, everything else a provider:
spoken to natively by DSPy where it can, through LiteLLM (an extra) where it cannot.
"""

import importlib
import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import dspy
import msgspec
from dspy.lm15 import LM15Error, NotConfiguredError

from experiments.errors import Busy, Invalid
from experiments.facts import Call
from experiments.quantities import SECOND, duration
from learning.adapters import PlainAdapter, remembering
from learning.definitions import LmSettings, Price
from learning.engines.local import AsyncLocalEngine, LocalEngine, local_model
from learning.engines.native import AsyncNativeEngine, NativeEngine, Route
from learning.engines.simulated import AsyncSimulatedEngine, SimulatedEngine, world
from learning.trails import Exchange, LmCall, Try

_RETRY_AFTER = 1.0
_METER: ContextVar[tuple[str, list[Call], Try | None] | None] = ContextVar("ratchet_meter", default=None)
_STARTED: ContextVar[int] = ContextVar("ratchet_call_started")


class MeteredLM(dspy.LM):  # type: ignore[misc]  # DSPy ships no types
    """A DSPy LM that reports each call to the meter in force and keeps nothing: no history, no cache."""

    def __init__(self, model: str, *, price: Price | None, **options: Any) -> None:
        super().__init__(model, cache=False, **options)
        self.price = price

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One call, blocking. Raises: dspy.LMError."""
        _STARTED.set(time.perf_counter_ns())
        try:
            return super().__call__(*args, **kwargs)
        except BaseException as error:
            self._failed(error)
            raise

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """One call. Raises: dspy.LMError."""
        _STARTED.set(time.perf_counter_ns())
        try:
            return await super().acall(*args, **kwargs)
        except BaseException as error:
            self._failed(error)
            raise

    def update_history(self, entry: dict[str, Any]) -> None:
        """Called by DSPy once per answered call, in the caller's context; not passed on, so that nothing piles up."""
        if (meter := _METER.get()) is not None:
            variant, calls, step = meter
            began, ended = _STARTED.get(), time.perf_counter_ns()
            calls.append(call := self._call(variant, entry["usage"], (ended - began) // 1000))
            if step is not None:
                heard = LmCall(
                    model=self.model,
                    began=began,
                    ended=ended,
                    bill=call,
                    answered_by=entry["response_model"],
                    finish=getattr(entry["response"], "finish_reason", None),
                    exchange=Exchange(entry["messages"] or [], entry["outputs"]) if step.verbatim else None,
                )
                step.calls.append(heard)

    def _call(self, variant: str, usage: dict[str, Any], latency: int) -> Call:
        """The call as billed. Tokens that the provider did not report leave it unpriced, never free."""
        given, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
        cost = None if self.price is None or given is None or made is None else self.price.of(given, made)
        return Call(variant, self.model, given or 0, made or 0, cost, latency)

    def _failed(self, error: BaseException) -> None:
        if (meter := _METER.get()) is not None and (step := meter[2]) is not None:
            name, now = type(error).__name__, time.perf_counter_ns()
            step.calls.append(LmCall(model=self.model, began=_STARTED.get(), ended=now, error=name))


@contextmanager
def metering(variant: str, calls: list[Call], step: Try | None = None) -> Iterator[None]:
    """Within it, every LM call of this task (and of threads it hands its context to) is appended to `calls`.

    A call's latency includes its retries. A call cut short by a deadline is not seen: nobody learns what it cost. Where
    there is a `step`, it is told of every call, also of one that failed or was cut short.
    """
    token = _METER.set((variant, calls, step))
    try:
        yield
    finally:
        _METER.reset(token)


class Slots:
    """How many predictions may be using one LM; beyond that they are refused at once, before anything is spent."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Holds one slot. Raises: Busy when all are taken."""
        if self.in_use >= self.limit:
            raise Busy(f"the language model already serves {self.limit} predictions", retry_after=_RETRY_AFTER)
        self.in_use += 1
        try:
            yield
        finally:
            self.in_use -= 1


class Lm(msgspec.Struct, frozen=True, eq=False):
    """One language model, opened. One per distinct `settings` and process, so that `slots` bound what they should."""

    settings: LmSettings
    model: MeteredLM
    adapter: dspy.Adapter
    slots: Slots
    native: AsyncNativeEngine | None = None

    def context(self) -> AbstractContextManager[None]:
        """DSPy programs run inside use this LM and its adapter."""
        context: AbstractContextManager[None] = dspy.context(lm=self.model, adapter=self.adapter)
        return context

    async def aclose(self) -> None:
        """Closes its connections; call it on the event loop that used them."""
        if self.native is not None:
            await self.native.aclose()
        await self.model.aclose()


def configure_process() -> None:
    """To be called once, before the first LM is opened: no response cache in memory or on disk."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)


def check_lm(settings: LmSettings) -> None:
    """Raises: Invalid where `open_lm` would, with pointers relative to the settings (`/model`, `/options/seed`)."""
    open_lm(settings)


def open_lm(settings: LmSettings) -> Lm:
    """The LM that `settings` describe. Nothing is sent and no weights are loaded before its first call.

    Raises: Invalid naming the cure: an unknown provider, a missing key, an extra that is not installed, a bad option.
    """
    # Otherwise DSPy and LiteLLM fetch their price lists from the network the first time they look a model up.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        engines = _engines(settings)
        model = MeteredLM(
            settings.model,
            price=settings.price,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            num_retries=settings.num_retries,
            **engines,
        )
    except NotConfiguredError as error:
        variables = " or ".join(getattr(error, "env_keys", ()))
        cure = f"set {variables}, or name the variable that holds the key in api_key_env" if variables else str(error)
        raise Invalid.at("/api_key_env" if variables else "/model", f"{settings.model} has no key: {cure}") from None
    except (LM15Error, dspy.LMError) as error:
        raise Invalid.at("/model", f"{settings.model}: {error}") from None
    asynchronous = engines.get("async_engine")
    native = asynchronous if isinstance(asynchronous, AsyncNativeEngine) else None
    return Lm(settings, model, _adapter(settings), Slots(settings.max_concurrency), native)


def _adapter(settings: LmSettings) -> dspy.Adapter:
    default = "plain" if settings.model.startswith("local/") else "chat"
    makers = {"chat": dspy.ChatAdapter, "json": dspy.JSONAdapter, "plain": PlainAdapter}
    adapter = settings.adapter or default
    if adapter == "plain" and settings.model.startswith("sim/"):
        raise Invalid.at("/adapter", "simulated models read the adapters chat and json")
    return remembering(makers[adapter]())


def _engines(settings: LmSettings) -> dict[str, Any]:
    """The arguments of `dspy.LM` that say how the model is reached."""
    family, _, name = settings.model.partition("/")
    if family == "sim":
        simulated = world(name, settings.options)
        return {"engine": SimulatedEngine(simulated), "async_engine": AsyncSimulatedEngine(simulated)}
    if family == "local":
        local = local_model(name)
        return {"engine": LocalEngine(local), "async_engine": AsyncLocalEngine(local)}
    key = _key(settings)
    if route := Route.of(settings, key):
        return {"engine": NativeEngine(route), "async_engine": AsyncNativeEngine(route)}
    return _through_litellm(settings, key)


def _key(settings: LmSettings) -> str | None:
    if settings.api_key_env is None:
        return None
    if key := os.environ.get(settings.api_key_env):
        return key
    raise Invalid.at(
        "/api_key_env", f"the environment variable {settings.api_key_env} is empty; set it to the provider's key"
    )


def _through_litellm(settings: LmSettings, key: str | None) -> dict[str, Any]:
    """Raises: Invalid where LiteLLM is not installed, does not know the provider either, or misses a key."""
    provider = settings.model.partition("/")[0]
    or_own = "write api_base for an OpenAI-compatible endpoint"
    if importlib.util.find_spec("litellm") is None:
        raise Invalid.at("/model", f"provider {provider!r} needs LiteLLM: `make setup EXTRAS=litellm`; or {or_own}")
    litellm = importlib.import_module("litellm")
    if provider not in litellm.provider_list:
        raise Invalid.at("/model", f"there is no provider {provider!r}; {or_own}")
    missing = [] if key else litellm.validate_environment(settings.model)["missing_keys"]
    if missing:
        raise Invalid.at("/api_key_env", f"{settings.model} has no key: set {', '.join(missing)}, or name another here")
    timeout = duration(settings.timeout) / SECOND if settings.timeout is not None else None
    options = {"api_key": key, "timeout": timeout}
    return {"engine": "litellm", **{name: value for name, value in options.items() if value is not None}}
