# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is on the GPUs, as the daemon knows it."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from ._client import Client
from ._errors import GpreemptError, Unsupported

_log = logging.getLogger("gpreempt")


@dataclass
class GpuStatus:
    """A GPU. Which queue is on which hardware slot (HQD) nobody knows where the hardware schedules: these are counts of queues."""

    gpu_id: int
    #: Compute slots of each XCC that the scheduler may use; None where sysfs does not tell.
    slots_total: Optional[int] = None
    #: Compute queues.
    compute_queues: int = 0
    #: Copy queues.
    sdma_queues: int = 0
    #: Of both, queues that the daemon holds.
    held: int = 0
    #: Compute queues of online jobs.
    online: int = 0
    #: Compute queues of offline jobs.
    offline: int = 0

    @property
    def slots_wanted(self) -> Optional[float]:
        """Compute queues that are not held, in parts of the slots: above 1, queues take turns."""
        return (self.compute_queues - self._held_compute) / self.slots_total if self.slots_total else None

    _held_compute: int = field(default=0, repr=False)


@dataclass
class ResourceStatus:
    """What was there at one moment."""

    #: ``time.time()`` of it.
    at: float
    #: By gpu_id.
    gpus: Dict[int, GpuStatus]
    #: As the daemon tells them (``GET /v1/jobs``).
    jobs: List[Dict[str, Any]]
    #: As the daemon tells it (``GET /v1/status``).
    daemon: Dict[str, Any]


class HQDResourceMonitor:
    """Asks the daemon now and then what is on the GPUs.

    ``root`` is where sysfs is looked for. ``program`` is gpreempt's, of which :meth:`cleanup_idle_queues` needs one answer that the
    daemon does not give.
    """

    def __init__(self, client: Optional[Client] = None, root: str = "/", program: Optional[str] = None) -> None:
        self._client = client or Client()
        self._root = Path(root)
        self._program = program or "gpreempt"
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self, interval: float = 1.0, callback: Optional[Callable[[ResourceStatus], None]] = None) -> None:
        """Calls ``callback`` with a :class:`ResourceStatus` every ``interval`` seconds, in a thread of its own, until :meth:`stop`.

        While the daemon cannot be reached it is not called. What it raises is logged.
        """
        if interval <= 0:
            raise ValueError("interval is more than 0 seconds")
        if self._thread is not None:
            raise RuntimeError("it has been started")
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._run, args=(interval, callback), name="gpreempt-monitor", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends what :meth:`start` began. Not to be called by the callback."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> "HQDResourceMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def get_status(self) -> ResourceStatus:
        """What is there now."""
        daemon, jobs, queues = self._client.status(), self._client.jobs(), self._client.queues()
        gpus = {gpu: GpuStatus(gpu, slots) for gpu, slots in self._slots().items()}
        for queue in queues:
            gpu = gpus.setdefault(queue["gpu_id"], GpuStatus(queue["gpu_id"]))
            compute = queue["queue_type"] == "compute"
            gpu.held += queue["held"]
            if not compute:
                gpu.sdma_queues += 1
                continue
            gpu.compute_queues += 1
            gpu._held_compute += queue["held"]
            gpu.online += queue["class"] == "online"
            gpu.offline += queue["class"] == "offline"
        return ResourceStatus(time.time(), gpus, jobs, daemon)

    def cleanup_idle_queues(self, idle: float, hold: float = 5.0) -> List[str]:
        """Has offline jobs held, for ``hold`` seconds, whose compute queues read nothing and had nothing to read for ``idle`` seconds: their
        names. This call takes that long. Nothing is destroyed: queues belong to their processes. What a hold gives back are the
        slots, and the time slices where there are more queues than slots. The daemon's guards may shorten or refuse it.

        The daemon does not tell which offline queues are idle. ``gpreempt queues`` does, as root, of queues with AQL packets (those of
        ROCm): without it this raises :class:`Unsupported`, and a job with a queue that it does not tell is not taken for idle.
        It takes the right ``hold``.
        """
        before = self._indices()
        time.sleep(idle)
        after = self._indices()
        idle_jobs = []
        for job in self._client.jobs():
            if job["class"] != "offline" or job["held"]:
                continue
            pids = set(job["pids"])
            own = {key: index for key, index in after.items() if key[0] in pids}
            if own and all(_is_idle(before.get(key), index) for key, index in own.items()):
                idle_jobs.append(job["job"])
        if not idle_jobs:
            return []
        asked = self._client.hold(jobs=idle_jobs, seconds=hold)
        return [job["job"] for job in asked if job["held"]]

    def _run(self, interval: float, callback: Optional[Callable[[ResourceStatus], None]]) -> None:
        while True:
            try:
                status = self.get_status()
                if callback is not None:
                    callback(status)
            except GpreemptError as error:
                _log.warning("the GPUs could not be looked at: %s", error)
            except Exception:
                _log.exception("the monitor's callback failed")
            if self._stop.wait(interval):
                return

    def _slots(self) -> Dict[int, int]:
        """Compute slots by gpu_id, from the topology in sysfs, which everybody may read."""
        slots = {}
        for node in self._root.glob("sys/class/kfd/kfd/topology/nodes/*"):
            try:
                gpu_id = int((node / "gpu_id").read_text())
                properties = dict(line.split() for line in (node / "properties").read_text().splitlines())
            except (OSError, ValueError):
                continue
            # Node 0 is the processor.
            if gpu_id:
                slots[gpu_id] = int(properties.get("num_cp_queues", 0))
        return slots

    def _indices(self) -> Dict[Tuple[int, int, int], Optional[Tuple[int, int]]]:
        """Write and read index of every compute queue, where they are known, by process, GPU and queue."""
        program = shutil.which(self._program)
        if program is None:
            raise Unsupported(f"there is no program {self._program}, which tells how far queues were read")
        ended = subprocess.run([program, "queues", "--format", "json"], capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise Unsupported(f"{program} queues: {ended.stderr.strip()}")
        indices: Dict[Tuple[int, int, int], Optional[Tuple[int, int]]] = {}
        for line in ended.stdout.splitlines():
            record = json.loads(line)
            queue = record.get("data", {})
            if record.get("type") != "queue" or queue["queue_type"] != "compute":
                continue
            write, read = queue.get("write_index"), queue.get("read_index")
            known = write is not None and read is not None
            indices[queue["pid"], queue["gpu_id"], queue["queue_id"]] = (write, read) if known else None
        return indices


def _is_idle(before: Optional[Tuple[int, int]], after: Optional[Tuple[int, int]]) -> bool:
    return after is not None and before == after and after[0] == after[1]
