"""Providers that DSPy speaks to natively, and any OpenAI-compatible endpoint: one connection pool per LM.

DSPy would build the same router itself, but with room for 100 connections whatever `max_concurrency` says, with four
hops through a thread per call where two are enough, and with a search of the whole environment for proxies per call.
"""

import asyncio
from dataclasses import replace
from typing import Any
from urllib.request import getproxies

import dspy
import msgspec
from dspy.clients.engines.lm15_engine import LM15Engine
from dspy.lm15 import (
    AccessPolicy,
    AsyncLMRouter,
    LMRouter,
    OpenAIChatCompat,
    ProviderDefinition,
    Request,
    Response,
    RouterConfig,
    Timeouts,
    UnknownModelError,
    Usage,
)

from experiments.quantities import SECOND, duration
from learning.definitions import LmSettings

_KEYLESS = "none"
"""Sent as the key to endpoints of one's own that want none."""


class Route(msgspec.Struct, frozen=True, eq=False):
    """How one model is reached: `address` is provider:model, `provider` who answers, `hints` what it can do."""

    address: str
    provider: str
    wire_model: str
    config: RouterConfig
    hints: dspy.LM | None

    @classmethod
    def of(cls, settings: LmSettings, key: str | None) -> "Route | None":
        """The route, or None when DSPy has no native one. Raises: LM15Error when a key or setting is missing."""
        config = _config(settings, key)
        try:
            found = LM15Engine(config).resolve(settings.model)
        except UnknownModelError:
            return None
        address = f"{found.provider}:{found.model}"
        LMRouter(config).lm(address)
        hints = None if found.declared else dspy.LM(settings.model, engine="lm15", cache=False)
        return cls(address, found.provider, found.model, config, hints)


def _config(settings: LmSettings, key: str | None) -> RouterConfig:
    """A key from the environment goes to the provider's own address only; to `api_base` only the one named for it."""
    bound: dict[str, Any] = {"max_connections": settings.max_concurrency}
    if settings.timeout is not None:
        seconds = duration(settings.timeout) / SECOND
        bound["timeouts"] = Timeouts(read=seconds, write=seconds, pool=seconds)
    try:
        provider = LM15Engine().resolve(settings.model).provider
    except UnknownModelError:
        if settings.api_base is None:
            return _Config(**bound)
        endpoint = _endpoint(settings.model.partition("/")[0], settings.api_base)
        return _Config(providers=(endpoint,), api_keys={endpoint.id: key or _KEYLESS}, **bound)
    if settings.api_base is not None:
        bound["base_urls"] = {provider: settings.api_base}
        key = key or _KEYLESS
    return _Config(api_keys={provider: key} if key else None, **bound)


class _Config(RouterConfig):  # type: ignore[misc]  # DSPy ships no types
    """Settings of a router that looks for a proxy at every call only if there was one when its connections opened."""

    def transport_kwargs(self) -> dict[str, Any]:
        """The arguments of its transport."""
        return {**super().transport_kwargs(), "trust_env": bool(getproxies())}


def _endpoint(name: str, url: str) -> ProviderDefinition:
    access = AccessPolicy(provider=name.replace("_", "-"), base_url=url, auth_modes=("bearer",))
    return ProviderDefinition.chat(access, compat=OpenAIChatCompat.preset("vllm"))


class _Native:
    """What DSPy asks an engine about itself; an endpoint of one's own claims no more than plain chat."""

    def __init__(self, route: Route) -> None:
        self.route = route
        hints = route.hints
        self.supported_params = hints.supported_params if hints else {"temperature", "max_tokens", "stop", "seed"}
        self.supports_response_schema = bool(hints and hints.supports_response_schema)
        self.supports_function_calling = bool(hints and hints.supports_function_calling)
        self.supports_reasoning = bool(hints and hints.supports_reasoning)

    def _routed(self, request: Request) -> Request:
        return replace(request, model=self.route.wire_model)

    def _billed(self, response: Response) -> Response:
        return replace(response, usage=_inclusive(response.usage, self.route.provider))


class NativeEngine(_Native):
    """One native attempt; blocks its thread."""

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self._lm = LMRouter(route.config).lm(route.address)

    def complete(self, request: Request) -> Response:
        """Raises: LM15Error."""
        return self._billed(self._lm.complete(self._routed(request)))


class AsyncNativeEngine(_Native):
    """One native attempt on the running event loop; its connections belong to that loop."""

    def __init__(self, route: Route) -> None:
        super().__init__(route)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._router: AsyncLMRouter | None = None
        self._lm: Any = None

    async def complete(self, request: Request) -> Response:
        """Raises: LM15Error."""
        if (loop := asyncio.get_running_loop()) is not self._loop:
            self._router = AsyncLMRouter(self.route.config)
            self._lm = self._router.lm(self.route.address)
            self._loop = loop
        return self._billed(await self._lm.complete(self._routed(request)))

    async def aclose(self) -> None:
        """Closes the pool of this loop."""
        if self._router is not None:
            await self._router.aclose()
            self._router = self._lm = self._loop = None


def _inclusive(usage: Usage, provider: str) -> Usage:
    """Counters as they are billed: all that went in and all that came out.

    Anthropic counts what its prompt cache held apart from the input, Gemini and xAI what was thought apart from the
    output; all others include both.
    """
    given, made = usage.input_tokens, usage.output_tokens
    if "anthropic" in provider and given is not None:
        given += (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    if provider in {"gemini", "vertex", "vertex-express", "xai"} and made is not None:
        made += usage.reasoning_tokens or 0
    return replace(usage, input_tokens=given, output_tokens=made)
