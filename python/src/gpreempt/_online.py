# SPDX-License-Identifier: MIT OR Apache-2.0
"""``with gpreempt.online():`` tells the daemon that online work is there."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from types import TracebackType
from typing import Optional, Tuple, Type

from ._client import Client
from ._errors import DaemonBusy, DaemonUnavailable, NotFound

_log = logging.getLogger("gpreempt")

# After a call that failed, the daemon is left alone for so long: online work must not wait for it again and again.
_PAUSE = 1.0


class _Hint:
    """A hint and how many blocks it covers: those nested in the first one, and tasks that outlive it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.id: Optional[int] = None
        self.latency: Optional[float] = None
        self._blocks = 1
        self._is_begun = False
        self._is_abandoned = False
        self._lock = threading.Lock()

    def join(self) -> bool:
        """Whether it is in force and now covers one block more."""
        with self._lock:
            if self._blocks == 0:
                return False
            self._blocks += 1
            return True

    def begun(self) -> bool:
        """To be called once it was begun. Whether it must be ended at once, as nobody waits for it any more."""
        with self._lock:
            self._is_begun = True
            return self._is_abandoned

    def abandon(self) -> bool:
        """To be called by who does not wait for its begin any more. Whether it was begun already."""
        with self._lock:
            self._is_abandoned = True
            return self._is_begun

    def leave(self) -> bool:
        """Whether that was the last block."""
        with self._lock:
            self._blocks -= 1
            return self._blocks == 0


# Of each thread and task: the hints of the blocks that it is in. A task begins with those of whoever started it.
_entered: contextvars.ContextVar[Tuple[_Hint, ...]] = contextvars.ContextVar("gpreempt_entered", default=())
_default_lock = threading.Lock()
_default: Optional[Client] = None
_silent_until = 0.0


def _default_client() -> Client:
    global _default
    with _default_lock:
        if _default is None:
            _default = Client()
        return _default


def _join() -> Optional[_Hint]:
    """The hint that covers this block too, if there is one."""
    entered = _entered.get()
    if not entered or not entered[-1].join():
        return None
    _push(entered[-1])
    return entered[-1]


def _push(hint: _Hint) -> None:
    _entered.set((*_entered.get(), hint))


def _pop() -> Optional[_Hint]:
    # Empty where a block is left in another context than it was entered in: the hint ends with its time then.
    entered = _entered.get()
    if not entered:
        return None
    _entered.set(entered[:-1])
    return entered[-1]


class online:
    """A block of online work: offline queues make room for it, as the daemon's policy says.

    ``lead``: the work begins in so many seconds. ``expires``: the hint ends by itself after so many. ``wait``: enter the block
    only when offline queues have been stopped, or will not be. ``required``: raise if there is no daemon; otherwise the work
    goes on without a hint, and a warning is logged.

    Nested blocks are covered by the outermost one's hint. It can be used again, by several threads and tasks, and with
    ``async with``. The value of the block tells after it, as ``latency``, how long the work took in seconds.
    """

    def __init__(
        self,
        *,
        lead: float = 0.0,
        expires: Optional[float] = None,
        wait: bool = False,
        required: bool = False,
        client: Optional[Client] = None,
    ) -> None:
        self._lead = lead
        self._expires = expires
        self._wait = wait
        self._required = required
        self._client = client

    def __enter__(self) -> _Hint:
        hint = _join()
        if hint is None:
            hint = _Hint(self._client or _default_client())
            self._begin(hint)
            _push(hint)
        return hint

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        hint = _pop()
        if hint is not None and hint.leave():
            self._end(hint)

    async def __aenter__(self) -> _Hint:
        hint = _join()
        if hint is None:
            hint = _Hint(self._client or _default_client())
            try:
                await asyncio.to_thread(self._begin_for_task, hint)
            except asyncio.CancelledError:
                # The thread goes on. Whoever comes last ends what was begun.
                if hint.abandon():
                    self._end(hint)
                raise
            _push(hint)
        return hint

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        hint = _pop()
        if hint is not None and hint.leave():
            await asyncio.shield(asyncio.to_thread(self._end, hint))

    def _begin(self, hint: _Hint) -> None:
        global _silent_until
        if not self._required and time.monotonic() < _silent_until:
            return
        try:
            hint.id = hint.client.hint_begin(self._lead, self._expires, self._wait)
        except (DaemonUnavailable, DaemonBusy) as error:
            if self._required:
                raise
            _silent_until = time.monotonic() + _PAUSE
            _log.warning("online work goes on without a hint: %s", error)

    def _begin_for_task(self, hint: _Hint) -> None:
        self._begin(hint)
        if hint.begun():
            self._end(hint)

    def _end(self, hint: _Hint) -> None:
        if hint.id is None:
            return
        try:
            hint.latency = hint.client.hint_end(hint.id)
        except NotFound:
            _log.warning("a hint had expired before the work was done: give it more time (expires)")
        except (DaemonUnavailable, DaemonBusy) as error:
            # It ends with its time, or with this process.
            _log.warning("a hint could not be ended: %s", error)
