# SPDX-License-Identifier: MIT OR Apache-2.0
"""A service that serves online requests and knows its offline jobs."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Dict, Iterator, Optional

from ._client import Client
from ._online import online


@dataclass
class Statistics:
    """Of the requests so far. Times are seconds, from the begin of the hint to the end of the work."""

    requests: int = 0
    #: Requests that ended in an exception.
    failed: int = 0
    #: Requests for which there was no daemon.
    without_hint: int = 0
    total: float = 0.0
    longest: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.requests if self.requests else 0.0


class SmartQueueScheduler:
    """Registers offline jobs, and makes each online request a hint. Who is stopped, when and for how long decides the daemon:
    by its policy, and within its guards."""

    def __init__(self, client: Optional[Client] = None) -> None:
        self._client = client or Client()
        self._lock = threading.Lock()
        self._statistics = Statistics()
        self._jobs: Dict[int, str] = {}

    def register_offline(
        self,
        pid: Optional[int] = None,
        group: Optional[str] = None,
        weight: Optional[int] = None,
        max_pause: Optional[float] = None,
        min_run: Optional[float] = None,
    ) -> str:
        """Says that a process, or this one, is offline work, until it ends: the name of its job.

        Processes of one ``group`` are held together. ``max_pause`` (longest pause) and ``min_run`` (least run between two), in
        seconds, can only tighten the daemon's guards.
        """
        job = self._client.register("offline", pid, group, weight, max_pause, min_run)
        with self._lock:
            self._jobs[pid or 0] = job
        return job

    def register_offline_queue(self, pid: int, queue_id: Optional[int] = None) -> str:
        """As :meth:`register_offline`. The daemon holds processes: naming a queue names all queues of its process."""
        return self.register_offline(pid)

    @contextmanager
    def handle_online_request(
        self, lead: float = 0.0, expires: Optional[float] = None, wait: bool = False
    ) -> Iterator[None]:
        """A block of online work, as :class:`gpreempt.online`, which counts in :meth:`statistics`."""
        started = time.monotonic()
        failed = True
        hint = None
        try:
            with online(lead=lead, expires=expires, wait=wait, client=self._client) as hint:
                yield
            failed = False
        finally:
            took = time.monotonic() - started
            with self._lock:
                of = self._statistics
                of.requests += 1
                of.failed += failed
                of.without_hint += hint is None or hint.id is None
                of.total += took
                of.longest = max(of.longest, took)

    @property
    def statistics(self) -> Statistics:
        """A copy of the counts."""
        with self._lock:
            return Statistics(**vars(self._statistics))

    def print_statistics(self, file: Optional[IO[str]] = None) -> None:
        """Prints the counts, and what the daemon says of the jobs that were registered here."""
        out = file or sys.stdout
        of = self.statistics
        print(
            f"{of.requests} requests, {of.failed} failed, {of.without_hint} without a hint; "
            f"mean {of.mean * 1e3:.1f} ms, longest {of.longest * 1e3:.1f} ms",
            file=out,
        )
        with self._lock:
            names = set(self._jobs.values())
        for job in self._client.jobs() if names else []:
            if job["job"] in names:
                state = "held" if job["held"] else "runs"
                print(
                    f"{job['job']}: {state}, held {job['holds']} times for {job['paused_ns'] / 1e9:.1f} s, "
                    f"ran {job['run_ns'] / 1e9:.1f} s",
                    file=out,
                )
