# SPDX-License-Identifier: MIT OR Apache-2.0
import json
import os
import stat
import tempfile
import threading
import unittest
from pathlib import Path

import gpreempt
from fake_daemon import FakeDaemon


def queue(pid: int, queue_id: int, job_class: str, held: bool = False, kind: str = "compute") -> dict:
    return {
        "pid": pid,
        "comm": "train",
        "job": f"pid:{pid}",
        "class": job_class,
        "gpu_id": 53017,
        "queue_id": queue_id,
        "queue_type": kind,
        "held": held,
    }


def job(pid: int, job_class: str, held: bool = False) -> dict:
    return {"job": f"pid:{pid}", "class": job_class, "pids": [pid], "held": held}


class MonitorTest(unittest.TestCase):
    def setUp(self) -> None:
        self.daemon = FakeDaemon()
        self.addCleanup(self.daemon.close)
        self.daemon.answers["GET", "/v1/status"] = 200, {"version": "0.1.0"}
        self.daemon.answers["GET", "/v1/jobs"] = 200, [job(5, "offline"), job(6, "online"), job(7, "offline")]
        self.daemon.answers["GET", "/v1/queues"] = 200, [
            queue(5, 0, "offline", held=True),
            queue(5, 1, "offline", held=True, kind="sdma"),
            queue(6, 0, "online"),
        ]
        self.root = tempfile.TemporaryDirectory()
        self.addCleanup(self.root.cleanup)
        for number, gpu_id in enumerate((0, 53017)):
            node = Path(self.root.name, f"sys/class/kfd/kfd/topology/nodes/{number}")
            node.mkdir(parents=True)
            (node / "gpu_id").write_text(f"{gpu_id}\n")
            (node / "properties").write_text("num_cp_queues 24\nsimd_count 304\n")
        self.client = gpreempt.Client(self.daemon.path)
        self.addCleanup(self.client.close)
        self.monitor = gpreempt.HQDResourceMonitor(self.client, self.root.name)

    def program(self, *pictures: list) -> str:
        """A `gpreempt` whose answers to `queues` are these, one after the other."""
        folder = Path(self.root.name)
        for number, picture in enumerate(pictures):
            lines = [json.dumps({"type": "gpu", "data": {}})]
            lines += [json.dumps({"type": "queue", "data": queue}) for queue in picture]
            (folder / f"{number}.json").write_text("\n".join(lines))
        program = folder / "gpreempt"
        program.write_text(
            f"#!/bin/sh\ncd {folder}\nn=$(cat count 2>/dev/null || echo 0)\ncat $n.json\necho $((n + 1)) > count\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return os.fspath(program)

    def test_status_counts_queues(self) -> None:
        status = self.monitor.get_status()
        self.assertEqual(list(status.gpus), [53017])
        gpu = status.gpus[53017]
        self.assertEqual((gpu.slots_total, gpu.compute_queues, gpu.sdma_queues), (24, 2, 1))
        self.assertEqual((gpu.held, gpu.online, gpu.offline), (2, 1, 1))
        self.assertEqual(gpu.slots_wanted, 1 / 24)

    def test_the_callback_is_called_until_it_is_stopped(self) -> None:
        enough = threading.Event()
        seen = []

        def callback(status: gpreempt.ResourceStatus) -> None:
            seen.append(status)
            if len(seen) == 3:
                enough.set()
                raise RuntimeError("of the callback")

        with self.assertLogs("gpreempt", "ERROR"), self.monitor as monitor:
            monitor.start(0.01, callback)
            self.assertTrue(enough.wait(10))
            with self.assertRaises(RuntimeError):
                monitor.start()
        count = len(seen)
        self.assertGreaterEqual(count, 3)
        self.monitor.start(60, callback)
        self.monitor.stop()

    def test_idle_offline_jobs_are_held(self) -> None:
        def index(pid: int, write: int, read: int) -> dict:
            queue = {"pid": pid, "gpu_id": 53017, "queue_id": 0, "queue_type": "compute"}
            return {**queue, "write_index": write, "read_index": read}

        # 5 is offline and idle, 6 online, 7 offline and busy.
        copies = {"pid": 5, "gpu_id": 53017, "queue_id": 1, "queue_type": "sdma"}
        program = self.program(
            [index(5, 10, 10), copies, index(6, 3, 3), index(7, 8, 8)],
            [index(5, 10, 10), copies, index(6, 3, 3), index(7, 9, 9)],
        )
        asked = {"jobs": [{"job": "pid:5", "held": True, "done": True, "why": "asked for"}]}
        self.daemon.answers["POST", "/v1/hold"] = 200, asked
        monitor = gpreempt.HQDResourceMonitor(self.client, self.root.name, program)
        self.assertEqual(monitor.cleanup_idle_queues(0.01, hold=2), ["pid:5"])
        self.assertEqual(self.daemon.calls[-1], ("POST", "/v1/hold", {"pids": [], "jobs": ["pid:5"], "for_ms": 2000}))

    def test_what_is_not_known_is_not_idle(self) -> None:
        unknown = [{"pid": 5, "gpu_id": 53017, "queue_id": 0, "queue_type": "compute"}]
        for picture in ([], unknown):
            monitor = gpreempt.HQDResourceMonitor(self.client, self.root.name, self.program(picture, picture))
            self.assertEqual(monitor.cleanup_idle_queues(0), [])
            Path(self.root.name, "count").unlink()
        monitor = gpreempt.HQDResourceMonitor(self.client, self.root.name, "/nonexistent/gpreempt")
        with self.assertRaises(gpreempt.Unsupported):
            monitor.cleanup_idle_queues(0)


if __name__ == "__main__":
    unittest.main()
