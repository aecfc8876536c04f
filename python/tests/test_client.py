# SPDX-License-Identifier: MIT OR Apache-2.0
import os
import threading
import unittest

import gpreempt
from fake_daemon import FakeDaemon


class ClientTest(unittest.TestCase):
    def setUp(self) -> None:
        self.daemon = FakeDaemon()
        self.addCleanup(self.daemon.close)
        self.client = gpreempt.Client(self.daemon.path)
        self.addCleanup(self.client.close)

    def test_one_connection_serves_many_calls(self) -> None:
        for _ in range(20):
            self.client.hint_end(self.client.hint_begin())
        self.assertEqual(len(self.daemon.connections), 1)

    def test_a_hint_says_what_was_asked(self) -> None:
        hint = self.client.hint_begin(lead=0.0025, expires=2, wait=True, outlive=True)
        self.assertEqual(self.daemon.hints[hint], {"lead_ms": 2, "expires_ms": 2000, "wait": True})
        self.assertEqual(self.client.hint_end(hint), 0.02)

    def test_times_must_be_times(self) -> None:
        for wrong in (-1, float("nan"), float("inf")):
            with self.assertRaises(ValueError):
                self.client.hint_begin(lead=wrong)

    def test_errors_have_classes(self) -> None:
        for status, error in (
            (403, gpreempt.PermissionDenied),
            (404, gpreempt.NotFound),
            (422, gpreempt.Refused),
            (503, gpreempt.DaemonBusy),
        ):
            self.daemon.answers["GET", "/v1/status"] = status, {"error": "this is why"}
            with self.assertRaisesRegex(error, "this is why"):
                self.client.status()

    def test_without_a_daemon(self) -> None:
        with self.assertRaisesRegex(gpreempt.DaemonUnavailable, "gpreempt serve"):
            gpreempt.Client("/nonexistent/socket").status()

    def test_a_daemon_that_was_restarted_is_found_again(self) -> None:
        self.client.hint_begin()
        self.daemon.stop()
        self.daemon.start()
        self.client.hint_begin()
        self.assertEqual(self.daemon.begun, 2)

    def test_threads_do_not_mix_answers(self) -> None:
        ended = []

        def work() -> None:
            for _ in range(50):
                ended.append(self.client.hint_end(self.client.hint_begin()))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(ended, [0.02] * 400)
        self.assertEqual(self.daemon.hints, {})

    def test_a_child_has_connections_of_its_own(self) -> None:
        self.client.hint_begin()
        pid = os.fork()
        if pid == 0:
            self.client.hint_begin()
            os._exit(0 if len(self.daemon.calls) == 1 else 1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        self.client.hint_begin()
        self.assertEqual(len(self.daemon.connections), 2)

    def test_bodies_of_jobs(self) -> None:
        self.daemon.answers["POST", "/v1/jobs"] = 200, {"job": "training"}
        self.daemon.answers["POST", "/v1/hold"] = 200, {"jobs": []}
        self.assertEqual(self.client.register("offline", group="training", max_pause=1.5), "training")
        self.client.hold(pids=[7], seconds=0.5)
        self.assertEqual(
            self.daemon.calls,
            [
                ("POST", "/v1/jobs", {"class": "offline", "group": "training", "max_pause_ms": 1500}),
                ("POST", "/v1/hold", {"pids": [7], "jobs": [], "for_ms": 500}),
            ],
        )


if __name__ == "__main__":
    unittest.main()
