# SPDX-License-Identifier: MIT OR Apache-2.0
import asyncio
import threading
import unittest
from unittest import mock

import gpreempt
from fake_daemon import FakeDaemon


class OnlineTest(unittest.TestCase):
    def setUp(self) -> None:
        self.daemon = FakeDaemon()
        self.addCleanup(self.daemon.close)
        self.client = gpreempt.Client(self.daemon.path)
        self.addCleanup(self.client.close)
        patch = mock.patch("gpreempt._online._silent_until", 0.0)
        patch.start()
        self.addCleanup(patch.stop)

    def online(self, **options: object) -> gpreempt.online:
        return gpreempt.online(client=self.client, **options)

    def test_a_block_is_a_hint(self) -> None:
        with self.online() as hint:
            self.assertEqual(len(self.daemon.hints), 1)
        self.assertEqual(self.daemon.hints, {})
        self.assertEqual(hint.latency, 0.02)

    def test_nested_blocks_are_one_hint(self) -> None:
        again = self.online()
        with again, self.online(), again:
            self.assertEqual(self.daemon.begun, 1)
        with again:
            self.assertEqual(self.daemon.begun, 2)
        self.assertEqual(self.daemon.hints, {})

    def test_an_exception_ends_it(self) -> None:
        with self.assertRaises(KeyError), self.online():
            raise KeyError
        self.assertEqual(self.daemon.hints, {})

    def test_threads_have_hints_of_their_own(self) -> None:
        shared = self.online()
        barrier = threading.Barrier(4)

        def work() -> None:
            with shared:
                barrier.wait()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((self.daemon.begun, self.daemon.hints), (4, {}))

    def test_async(self) -> None:
        async def request() -> None:
            async with self.online():
                async with self.online():
                    await asyncio.sleep(0.01)

        async def service() -> None:
            await asyncio.gather(request(), request(), request())

        asyncio.run(service())
        self.assertEqual((self.daemon.begun, self.daemon.hints), (3, {}))

    def test_a_task_that_outlives_its_block_keeps_the_hint(self) -> None:
        async def late(entered: asyncio.Event, go: asyncio.Event) -> None:
            async with self.online():
                entered.set()
                await go.wait()

        async def service() -> None:
            entered, go = asyncio.Event(), asyncio.Event()
            async with self.online():
                task = asyncio.create_task(late(entered, go))
                await entered.wait()
            self.assertEqual((self.daemon.begun, len(self.daemon.hints)), (1, 1))
            go.set()
            await task

        asyncio.run(service())
        self.assertEqual(self.daemon.hints, {})

    def test_a_cancelled_begin_leaves_no_hint(self) -> None:
        async def service() -> None:
            task = asyncio.create_task(self.enter())
            await asyncio.sleep(0)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(service())
        self.assertEqual(self.daemon.hints, {})

    async def enter(self) -> None:
        async with self.online():
            await asyncio.sleep(60)

    def test_work_goes_on_without_a_daemon(self) -> None:
        nowhere = gpreempt.Client("/nonexistent/socket")
        with self.assertLogs("gpreempt", "WARNING") as logged:
            for _ in range(3):
                with gpreempt.online(client=nowhere) as hint:
                    self.assertIsNone(hint.id)
        self.assertEqual(len(logged.records), 1, "it is not asked again and again")
        with self.assertRaises(gpreempt.DaemonUnavailable), gpreempt.online(client=nowhere, required=True):
            self.fail("it was entered")

    def test_a_refusal_is_raised(self) -> None:
        self.daemon.answers["POST", "/v1/hints"] = 403, {"error": "no"}
        with self.assertRaises(gpreempt.PermissionDenied), self.online():
            self.fail("it was entered")

    def test_a_hint_that_expired_is_told(self) -> None:
        with self.assertLogs("gpreempt", "WARNING") as logged, self.online():
            self.daemon.hints.clear()
        self.assertIn("expired", logged.output[0])


if __name__ == "__main__":
    unittest.main()
