# SPDX-License-Identifier: MIT OR Apache-2.0
import io
import unittest

import gpreempt
from fake_daemon import FakeDaemon


class SchedulerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.daemon = FakeDaemon()
        self.addCleanup(self.daemon.close)
        self.client = gpreempt.Client(self.daemon.path)
        self.addCleanup(self.client.close)
        self.scheduler = gpreempt.SmartQueueScheduler(self.client)

    def test_requests_are_hints_and_are_counted(self) -> None:
        with self.scheduler.handle_online_request(wait=True):
            self.assertTrue(self.daemon.hints[1]["wait"])
        with self.assertRaises(KeyError), self.scheduler.handle_online_request():
            raise KeyError
        of = self.scheduler.statistics
        self.assertEqual((of.requests, of.failed, of.without_hint), (2, 1, 0))
        self.assertGreaterEqual(of.longest, of.mean)
        self.assertEqual(self.daemon.hints, {})

    def test_jobs_are_registered_and_shown(self) -> None:
        self.daemon.answers["POST", "/v1/jobs"] = 200, {"job": "training"}
        self.assertEqual(self.scheduler.register_offline(group="training"), "training")
        self.assertEqual(self.scheduler.register_offline_queue(12, 3), "training")
        self.assertEqual(self.daemon.calls[1][2], {"class": "offline", "pid": 12})
        self.daemon.answers["GET", "/v1/jobs"] = 200, [
            {"job": "other"},
            {"job": "training", "held": False, "holds": 2, "paused_ns": 1_500_000_000, "run_ns": 9_000_000_000},
        ]
        out = io.StringIO()
        self.scheduler.print_statistics(out)
        self.assertEqual(
            out.getvalue(),
            "0 requests, 0 failed, 0 without a hint; mean 0.0 ms, longest 0.0 ms\n"
            "training: runs, held 2 times for 1.5 s, ran 9.0 s\n",
        )


if __name__ == "__main__":
    unittest.main()
