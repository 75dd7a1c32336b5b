"""An engine around an engine: each call is paid within the run's means, entered in its ledger, and only then answered.

It stands where every attempt passes: first tries, retries, the second call that an adapter makes when it cannot read an
answer, and calls from whatever thread. DSPy's own cache does not serve here: its key leaves out the endpoint, its files
are pickles, and it remembers no failure. See decision 0011.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import msgspec
from dspy import lm15
from dspy.clients.call_result import response_from_dict, response_to_dict  # dspy.lm15 itself does not offer them
from dspy.clients.execution import request_to_dict

from learning.definitions import LmSettings
from learning.engines.ledger import Entry, Failure, Ledger, Role
from learning.engines.spending import Spending
from learning.values import fit

LONGEST_ANSWER: dict[Role, int] = {"student": 4_096, "reflection": 16_384}
"""Output tokens that are set aside for a call whose LM has no `max_tokens`."""
_FATAL = (lm15.AuthError, lm15.BillingError, lm15.ConfigurationError, lm15.UnsupportedModelError)
"""What no later call will escape."""
_PAUSE = 0.02
"""Seconds between two looks at whether a call fits in by now."""
_MAYBE_BILLED = (lm15.TimeoutError, lm15.TransportError)
_HINTS = frozenset(
    {
        "picks_from_choices", "supported_params", "supports_function_calling", "supports_reasoning",
        "supports_response_schema",
    }
)  # fmt: skip
"""What DSPy may ask of the engine inside. Nothing else: it must not find another way to call it."""

TALLY: ContextVar[list[Entry] | None] = ContextVar("ratchet_tally", default=None)
"""Where set, the calls of this task are listed, those that the ledger answered too."""


class Account:
    """What one LM is charged to: its role, its price, the run's ledger and means.

    `identity` is what tells its answers from those of another model, endpoint or parameters.
    """

    def __init__(
        self,
        role: Role,
        settings: LmSettings,
        identity: dict[str, Any],
        ledger: Ledger,
        spending: Spending,
        clock: Callable[[], int],
    ) -> None:
        self.role = role
        self.spending = spending
        self.ledger = ledger
        self.clock = clock
        self._settings = settings
        self._identity = msgspec.json.encode([role, identity], order="sorted")

    def key(self, request: lm15.Request) -> str:
        """What the request asks, of which model and where, in 32 hexadecimal digits."""
        asked = msgspec.json.encode(request_to_dict(request), order="sorted")
        return hashlib.blake2b(self._identity + asked, digest_size=16).hexdigest()

    def most(self, request: lm15.Request) -> int:
        """Picodollars the call can cost: a byte is at least a token's worth of text, and answers end at max_tokens."""
        if self._settings.price is None:
            return 0
        read = len(msgspec.json.encode(request_to_dict(request)))
        written = request.config.max_tokens or self._settings.max_tokens or LONGEST_ANSWER[self.role]
        return self._settings.price.of(read, written)

    def entry(self, key: str, began: int, most: int, answer: lm15.Response | lm15.LM15Error) -> Entry:
        """The ledger's line about a call that began at `began` on the performance counter (ns)."""
        latency = (time.perf_counter_ns() - began) // 1000
        failure, response, given, made = None, None, 0, 0
        cost = 0 if self._settings.price is not None else None
        if isinstance(answer, lm15.LM15Error):
            failure = Failure(
                kind=type(answer).__name__,
                message=_kept(" ".join(str(answer).split())[:500]),
                status=answer.status,
                retry_after=answer.retry_after,
            )
            if isinstance(answer, _MAYBE_BILLED):
                cost = most if cost is not None else None
        else:
            response = _kept(response_to_dict(answer))
            given, made = answer.usage.input_tokens, answer.usage.output_tokens
            if self._settings.price is not None:
                cost = most if given is None or made is None else self._settings.price.of(given, made)
        return Entry(
            role=self.role,
            key=key,
            at=self.clock(),
            latency=latency,
            input_tokens=given or 0,
            output_tokens=made or 0,
            cost=cost,
            response=response,
            failure=failure,
        )

    def refusal(self) -> lm15.LM15Error:
        """Why a call was not admitted, as an error that DSPy does not retry."""
        stop = self.spending.stopped
        return lm15.ConfigurationError(f"the run has stopped: {stop.reason if stop else ''}")

    def enter(self, entry: Entry, most: int) -> Entry:
        """Puts the call on record. Raises: ConfigurationError when it cannot be: then it is not used either."""
        try:
            self.ledger.record(entry)
        except OSError as error:
            self.spending.stop("broken", f"the ledger cannot be written: {error}")
            raise lm15.ConfigurationError(f"the ledger cannot be written: {error}") from error
        finally:
            self.spending.settle(most)
        return entry

    def give(self, entry: Entry, *, fresh: bool) -> lm15.Response:
        """The answer of a call on record. Raises: LM15Error, the failure it was; an old one is retried at once."""
        self.spending.note(self.role, entry.cost or 0)
        if (tally := TALLY.get()) is not None:
            tally.append(entry)
        if entry.failure is None:
            return response_from_dict(entry.response or {})
        kind = getattr(lm15, entry.failure.kind, lm15.ProviderError)
        if issubclass(kind, _FATAL):
            self.spending.stop("void", f"the {self.role} LM refuses: {entry.failure.message}")
        pause = entry.failure.retry_after if fresh else 0.0
        raise kind(entry.failure.message, status=entry.failure.status, retry_after=pause)


def _kept(value: Any) -> Any:
    """As JSON can hold it: models break emoji in two, and a call that cannot be entered was paid all the same."""
    match value:
        case str():
            return fit(value)
        case dict():
            return {_kept(key): _kept(member) for key, member in value.items()}
        case list() | tuple():
            return [_kept(member) for member in value]
    return value


class Asking:
    """The calls under way: whoever asks what another thread or task is asking already waits for that answer.

    DSPy asks a second time for what takes longer than two minutes; that must not be paid a second time.
    """

    def __init__(self) -> None:
        self._calls: dict[str, Future[Entry]] = {}
        self._lock = threading.Lock()

    def join(self, key: str) -> tuple[Future[Entry], bool]:
        """The call, and whether it is for the caller to make; who makes it has to `settle` it."""
        with self._lock:
            mine = key not in self._calls
            return self._calls.setdefault(key, Future()), mine

    def settle(self, key: str, call: Future[Entry]) -> None:
        """The call is over. One that came to nothing is called stopped to all who wait for it."""
        with self._lock:
            del self._calls[key]
        if not call.done():
            call.set_exception(lm15.ConfigurationError("another thread's call came to nothing"))


class _Recorded:
    """An engine, whose calls go on an account; what it says of itself is what the engine says."""

    def __init__(self, inner: Any, account: Account) -> None:
        self._inner = inner
        self._account = account
        self._asking = Asking()

    def __getattr__(self, name: str) -> Any:
        if name in _HINTS:
            return getattr(self._inner, name)
        raise AttributeError(name)


class RecordedEngine(_Recorded):
    """Blocks its thread."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Raises: LM15Error."""
        account = self._account
        key = account.key(request)
        call, mine = self._asking.join(key)
        if not mine:
            return account.give(call.result(), fresh=True)
        try:
            known = account.ledger.next(key)
            call.set_result(known or self._paid(request, key))
        finally:
            self._asking.settle(key, call)
        return account.give(call.result(), fresh=known is None)

    def _paid(self, request: lm15.Request, key: str) -> Entry:
        account, most = self._account, self._account.most(request)
        if not account.spending.admit(most):
            raise account.refusal()
        began = time.perf_counter_ns()
        try:
            answer: lm15.Response | lm15.LM15Error = self._inner.complete(request)
        except lm15.LM15Error as error:
            answer = error
        except BaseException:
            account.spending.settle(most)
            raise
        return account.enter(account.entry(key, began, most, answer), most)


class AsyncRecordedEngine(_Recorded):
    """The same on an event loop."""

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Raises: LM15Error."""
        account = self._account
        key = account.key(request)
        call, mine = self._asking.join(key)
        if not mine:
            return account.give(await asyncio.wrap_future(call), fresh=True)
        try:
            known = account.ledger.next(key)
            call.set_result(known or await self._paid(request, key))
        finally:
            self._asking.settle(key, call)
        return account.give(call.result(), fresh=known is None)

    async def _paid(self, request: lm15.Request, key: str) -> Entry:
        account, most = self._account, self._account.most(request)
        while (admitted := account.spending.admits(most)) is None:  # noqa: ASYNC110  # other threads wait for it too
            await asyncio.sleep(_PAUSE)
        if not admitted:
            raise account.refusal()
        began = time.perf_counter_ns()
        try:
            answer: lm15.Response | lm15.LM15Error = await self._inner.complete(request)
        except lm15.LM15Error as error:
            answer = error
        except asyncio.CancelledError:
            # A deadline passed. Nobody will learn what it cost; that it was made stays on record.
            late = lm15.TimeoutError("cut short by the deadline")
            account.enter(account.entry(key, began, most, late), most)
            raise
        except BaseException:
            account.spending.settle(most)
            raise
        entry = account.entry(key, began, most, answer)
        return await asyncio.to_thread(account.enter, entry, most)
