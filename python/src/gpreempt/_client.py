# SPDX-License-Identifier: MIT OR Apache-2.0
"""The daemon's calls: HTTP and JSON on a Unix socket. ``GET /v1/openapi.json`` describes them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from collections import deque
from typing import Any, Deque, Dict, Iterable, List, Optional, Tuple

from ._errors import DaemonBusy, DaemonUnavailable, GpreemptError, NotFound, PermissionDenied, Refused

#: Where the daemon listens unless it is told otherwise.
SOCKET = "/run/gpreempt/gpreempt.sock"

# Connections that are kept for the next call: as many as threads call at once, within reason.
_KEPT = 8

# include/linux/proc_ns.h: PROC_PID_INIT_INO.
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"

_ERRORS = {403: PermissionDenied, 404: NotFound, 503: DaemonBusy}


class _Connection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("gpreempt", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # By the kernel's own timeout: a Unix socket that does not block is refused at once where others wait to be accepted.
            whole = int(self.timeout)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", whole, int((self.timeout - whole) * 1e6)))
            sock.connect(self._path)
            sock.settimeout(self.timeout)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class Client:
    """A client of the daemon. Threads may share it; so may a process and the children that it forks.

    ``path`` is the daemon's socket: ``$GPREEMPT_SOCKET``, else :data:`SOCKET`, if it is not given. No answer within ``timeout``
    seconds is :class:`DaemonUnavailable`.
    """

    def __init__(self, path: Optional[str] = None, timeout: float = 35.0) -> None:
        self.path = path or os.environ.get("GPREEMPT_SOCKET") or SOCKET
        self.timeout = timeout
        self._pid = os.getpid()
        self._idle: Deque[_Connection] = deque()

    def call(self, method: str, path: str, body: Optional[Dict[str, Any]] = None) -> Any:
        """Any call of the daemon: its answer. Raises :class:`GpreemptError`."""
        status, answer = self._exchange(method, path, body)
        try:
            said = json.loads(answer)
        except ValueError as error:
            raise GpreemptError(f"the daemon's answer to {method} {path} is not understood: {error}") from None
        if status < 400:
            return said
        message = said.get("error") if isinstance(said, dict) else None
        raise _ERRORS.get(status, Refused)(message or f"the daemon answers {status}")

    def status(self) -> Dict[str, Any]:
        """How the daemon is."""
        return self.call("GET", "/v1/status")

    def jobs(self) -> List[Dict[str, Any]]:
        """Jobs: what they are, whether they are held, and why."""
        return self.call("GET", "/v1/jobs")

    def queues(self) -> List[Dict[str, Any]]:
        """Queues, with the jobs that they belong to."""
        return self.call("GET", "/v1/queues")

    def hint_begin(
        self, lead: float = 0.0, expires: Optional[float] = None, wait: bool = False, outlive: bool = False
    ) -> int:
        """Says that online work begins in ``lead`` seconds: the id of the hint.

        It ends by itself after ``expires`` seconds, and with this process unless it is to ``outlive`` it. With ``wait`` this
        returns when offline queues have been stopped, or it is known that they will not be.
        """
        body: Dict[str, Any] = {"lead_ms": _ms(lead), "wait": wait}
        if expires is not None:
            body["expires_ms"] = _ms(expires)
        if not outlive and _sees_host_pids():
            body["pid"] = os.getpid()
        return self.call("POST", "/v1/hints", body)["id"]

    def hint_end(self, hint: int) -> float:
        """Ends a hint: how long the work took, in seconds. :class:`NotFound` if it had ended by itself."""
        return self.call("DELETE", f"/v1/hints/{hint}")["latency_ns"] / 1e9

    def register(
        self,
        job_class: str,
        pid: Optional[int] = None,
        group: Optional[str] = None,
        weight: Optional[int] = None,
        max_pause: Optional[float] = None,
        min_run: Optional[float] = None,
    ) -> str:
        """Says what a process is, ``offline``, ``online`` or ``ignore``, until it ends: the name of its job.

        Without ``pid``, this process. Everybody may register own processes as offline.
        """
        body: Dict[str, Any] = {"class": job_class}
        more = {
            "pid": pid,
            "group": group,
            "weight": weight,
            "max_pause_ms": None if max_pause is None else _ms(max_pause),
            "min_run_ms": None if min_run is None else _ms(min_run),
        }
        body.update((key, value) for key, value in more.items() if value is not None)
        return self.call("POST", "/v1/jobs", body)["job"]

    def hold(
        self, pids: Iterable[int] = (), jobs: Iterable[str] = (), seconds: Optional[float] = None
    ) -> List[Dict[str, Any]]:
        """Has jobs held, within the daemon's guards: what became of each. Takes the right ``hold``."""
        return self._ask("hold", pids, jobs, seconds)

    def resume(
        self, pids: Iterable[int] = (), jobs: Iterable[str] = (), seconds: Optional[float] = None
    ) -> List[Dict[str, Any]]:
        """Has jobs run, whatever the policy wants: what became of each."""
        return self._ask("resume", pids, jobs, seconds)

    def free(self, pids: Iterable[int] = (), jobs: Iterable[str] = ()) -> List[Dict[str, Any]]:
        """Leaves jobs to the policy again: what became of each."""
        return self._ask("free", pids, jobs, None)

    def close(self) -> None:
        """Closes the connections that are kept. The next call makes new ones."""
        while self._idle:
            self._idle.pop().close()

    def _ask(
        self, what: str, pids: Iterable[int], jobs: Iterable[str], seconds: Optional[float]
    ) -> List[Dict[str, Any]]:
        body: Dict[str, Any] = {"pids": list(pids), "jobs": list(jobs)}
        if seconds is not None:
            body["for_ms"] = _ms(seconds)
        return self.call("POST", f"/v1/{what}", body)["jobs"]

    def _exchange(self, method: str, path: str, body: Optional[Dict[str, Any]]) -> Tuple[int, bytes]:
        kept = self._take()
        if kept is not None:
            try:
                return self._send(kept, method, path, body)
            except socket.timeout:
                raise self._unavailable("did not answer in time") from None
            except (OSError, http.client.HTTPException):
                # The daemon has closed it meanwhile, as after a restart. Once more, on a new one.
                pass
        try:
            return self._send(_Connection(self.path, self.timeout), method, path, body)
        except PermissionError:
            raise PermissionDenied(f"no permission to connect to {self.path}") from None
        except socket.timeout:
            raise self._unavailable("did not answer in time") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(f"cannot be reached ({error}); is `gpreempt serve` running?") from None

    def _unavailable(self, why: str) -> DaemonUnavailable:
        return DaemonUnavailable(f"the daemon at {self.path} {why}")

    def _send(
        self, connection: _Connection, method: str, path: str, body: Optional[Dict[str, Any]]
    ) -> Tuple[int, bytes]:
        try:
            text = None if body is None else json.dumps(body).encode()
            headers = {} if text is None else {"content-type": "application/json"}
            connection.request(method, path, body=text, headers=headers)
            answer = connection.getresponse()
            said = answer.status, answer.read()
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None and len(self._idle) < _KEPT:
            self._idle.append(connection)
        else:
            connection.close()
        return said

    def _take(self) -> Optional[_Connection]:
        if self._pid != os.getpid():
            # A child after fork: the parent goes on with these.
            self._pid = os.getpid()
            self.close()
        try:
            return self._idle.pop()
        except IndexError:
            return None


def _ms(seconds: float) -> int:
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{seconds} is no time in seconds that can stand here")
    return round(seconds * 1000)


def _sees_host_pids() -> bool:
    """Whether the daemon knows this process by the number that it knows itself by."""
    try:
        return os.readlink("/proc/self/ns/pid") == _INITIAL_PID_NAMESPACE
    except OSError:
        return False
