# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the package's guide shows, step by step against a daemon that holds real queues. Prints one JSON object a line, and goes on when a
line comes on standard input: meanwhile the test looks at the GPU. Arguments: pids of a busy job, of an idle one, of one that nobody named."""

import asyncio
import io
import json
import sys
import time

import gpreempt

busy, idle, unnamed = (int(argument) for argument in sys.argv[1:4])


def say(kind, **data):
    print(json.dumps({"type": kind, "data": data}), flush=True)


def step(kind, **data):
    """Tells the test that it may look, and waits until it has."""
    say(kind, **data)
    if not sys.stdin.readline():
        sys.exit("the test has ended")


def held(pid):
    return [job["held"] for job in gpreempt.Client().jobs() if pid in job["pids"]]


def online():
    with gpreempt.online(wait=True, required=True) as hint:
        with gpreempt.online():
            step("online", held=held(busy))
    step("after_online", latency=hint.latency)


async def online_async():
    async with gpreempt.online(wait=True, required=True) as hint:
        step("online_async", held=held(busy))
    step("after_online_async", latency=hint.latency)


def scheduler():
    ours = gpreempt.SmartQueueScheduler()
    job = ours.register_offline(pid=unnamed, group="python", max_pause=60)
    with ours.handle_online_request(wait=True):
        step("scheduler", job=job, held=held(unnamed))
    try:
        with ours.handle_online_request():
            raise ValueError("a request that fails")
    except ValueError:
        pass
    text = io.StringIO()
    ours.print_statistics(text)
    step("after_scheduler", text=text.getvalue(), requests=ours.statistics.requests, failed=ours.statistics.failed)


def monitor():
    seen = []
    with gpreempt.HQDResourceMonitor() as watching:
        watching.start(interval=0.1, callback=seen.append)
        with gpreempt.online(wait=True, required=True):
            status = watching.get_status()
        while len(seen) < 3:
            time.sleep(0.05)
    (gpu,) = status.gpus.values()
    say(
        "monitor",
        gpu_id=gpu.gpu_id,
        slots=gpu.slots_total,
        compute=gpu.compute_queues,
        held=gpu.held,
        offline=gpu.offline,
        online=gpu.online,
        jobs=len(status.jobs),
        looks=len(seen),
    )
    names = watching.cleanup_idle_queues(idle=0.5, hold=60)
    step("cleanup", jobs=names)


def refusals():
    client = gpreempt.Client()
    for what, call in [
        ("not_found", lambda: client.hint_end(999999)),
        ("refused", lambda: client.call("POST", "/v1/hints", {"frob": 1})),
        ("unavailable", lambda: gpreempt.Client(path="/nowhere").status()),
    ]:
        try:
            call()
            say(what, error=None)
        except gpreempt.GpreemptError as error:
            say(what, error=type(error).__name__)


online()
asyncio.run(online_async())
scheduler()
refusals()
monitor()
say("done")
