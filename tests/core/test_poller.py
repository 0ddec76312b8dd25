"""The poller over real sockets: many flows on one session, each on its own. No Airflow in here."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segstats.core import api, flows, poller
from airflow_provider_segstats.core.api import Call
from airflow_provider_segstats.core.errors import (
    ApiError,
    ConfigurationError,
    HttpStatusError,
    NotSentError,
    SegStatsError,
    WaitTimeoutError,
)
from airflow_provider_segstats.core.flows import LargeAnswer, Pause, Reload, Send, World
from airflow_provider_segstats.core.model import TaskStatus
from airflow_provider_segstats.core.policy import WaitPlan
from airflow_provider_segstats.core.poller import LARGE_BODY, WORKERS, Poller, shared_poller
from airflow_provider_segstats.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from airflow_provider_segstats.core.flows import Flow

RUNNING = b'{"error": 0, "data": {"status": "running"}}'
DONE = b'{"error": 0, "data": {"status": "completed", "result": []}}'
BAD_TOKEN = b'{"error": 401, "error_text": "Invalid API token"}'
NOTHING = b""  # no answer until the client leaves


def reply(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def done(_: dict[str, Any]) -> bytes:
    return reply(DONE)


def refused(seconds: str) -> bytes:
    return reply(b"", "429 Too Many Requests", Retry_After=seconds)


class Server:
    """Answers a request with what a function returns for its parameters; and the connection to it."""

    def __init__(self, answer: Callable[[dict[str, Any]], Awaitable[bytes]]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.connections = 0  # ever accepted
        self.open = 0
        self.under_way = 0
        self.most_under_way = 0
        self.port = 0
        # What is read from the connection, and how often it was.
        self.token = "t0ken"
        self.extra: dict[str, Any] = {}
        self.loads = 0

    @property
    def tasks(self) -> list[str]:
        """What was asked for, in the order of arrival."""
        return [request["task_id"] for request in self.requests]

    async def load(self) -> Settings:
        self.loads += 1
        extra = {"timeout": 20, **self.extra}
        return Settings.from_fields(host=f"http://127.0.0.1:{self.port}", password=self.token, extra=extra)

    def start(self, make_flow: Callable[[Settings], Flow[Any]], **options: Any) -> asyncio.Task[Any]:
        """Drive a flow as a trigger does, in a task of its own."""

        async def run() -> Any:
            async with shared_poller("key", self.load) as shared:
                return await shared.run(make_flow, **options)

        return asyncio.create_task(run())

    async def arrived(self, requests: int) -> None:
        await until(lambda: len(self.requests) >= requests)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                    request = json.loads(await reader.readexactly(length))
                    self.requests.append(request)
                    self.times.append(time.monotonic())
                    self.under_way += 1
                    self.most_under_way = max(self.most_under_way, self.under_way)
                    writer.write(await self.answer(request))
                    self.under_way -= 1
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def serving(answer: Callable[[dict[str, Any]], Awaitable[bytes]] = done) -> AsyncIterator[Server]:
    """Give a server; all connections to it have to be closed in the end."""
    server = Server(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1")
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
        await until(lambda: not server.open)
    finally:
        listener.close()


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - the other end of a socket has no event for it
        await asyncio.sleep(0.005)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test on a loop of its own; it leaves no poller and no task behind, and does not hang."""

    async def limited() -> None:
        await asyncio.wait_for(test, 30)
        assert poller._pollers == {}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(limited())


def ask(task_id: str = "task", by: float = float("inf")) -> Callable[[Settings], Flow[Any]]:
    """Return what makes a flow that asks once."""

    def flow(settings: Settings) -> Flow[Any]:
        return (yield Send(api.task_status(settings, task_id), by))

    return flow


def wait(task_id: str = "task", timeout: float = 60, failures: int = 0) -> Callable[[Settings], Flow[Any]]:
    world = World(now=time.time, chance=lambda: 0.5, log=logging.getLogger("test"))
    now = time.time()
    bounds = WaitPlan(now, now + timeout, poke_interval=0.01, failures=failures)
    return lambda settings: flows.wait(settings, task_id, bounds, world)


# --- one session for all


def test_many_flows_share_one_connections_settings_and_at_most_32_sockets() -> None:
    async def test() -> None:
        full = asyncio.Event()

        async def answer(_: dict[str, Any]) -> bytes:
            if server.under_way == WORKERS:
                full.set()
            await full.wait()
            return reply(DONE)

        async with serving(answer) as server:
            asked = [server.start(ask(str(n))) for n in range(200)]
            assert {status.status for status in await asyncio.gather(*asked)} == {"completed"}
        assert WORKERS == 32
        assert (server.loads, server.connections, server.most_under_way) == (1, WORKERS, WORKERS)
        assert sorted(server.tasks, key=int) == [str(n) for n in range(200)]

    run(test())


def test_flows_that_rest_hold_no_socket_each() -> None:
    async def test() -> None:
        async with serving() as server:

            def one_by_one(settings: Settings) -> Flow[Any]:
                yield Send(api.task_status(settings, "first"))
                yield Pause(0.3, 0)
                return (yield Send(api.task_status(settings, "second")))

            await asyncio.gather(*(server.start(one_by_one) for _ in range(100)))
        assert Counter(server.tasks) == {"first": 100, "second": 100}
        assert server.connections <= WORKERS

    run(test())


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "cancelled twice"])
def test_the_session_closes_when_the_last_flow_leaves_and_another_starts_anew(end: str) -> None:
    async def test() -> None:
        async def answer(request: dict[str, Any]) -> bytes:
            if request["task_id"] == "fails":
                return reply(b'{"error": 440}')
            return NOTHING if request["task_id"] == "hangs" else reply(DONE)

        # `serving` sees to it that all is closed and ended.
        async with serving(answer) as server:
            last = server.start(ask({"done": "task", "failed": "fails"}.get(end, "hangs")))
            await server.arrived(1)
            if end.startswith("cancelled"):
                last.cancel()
                if end == "cancelled twice":
                    await asyncio.sleep(0)
                    last.cancel()
            await asyncio.gather(last, return_exceptions=True)
            await until(lambda: not server.open)
            assert poller._pollers == {}
            assert (await server.start(ask())).status == "completed"
            assert (server.loads, server.connections) == (2, 2)

    run(test())


def test_the_session_stays_while_anyone_needs_the_poller() -> None:
    async def test() -> None:
        async with serving() as server, shared_poller("key", server.load):
            for _ in range(3):
                await server.start(ask())
            assert (server.loads, server.connections) == (1, 1)

    run(test())


def test_two_keys_do_not_share() -> None:
    async def test() -> None:
        async with (
            serving() as server,
            shared_poller("one", server.load) as one,
            shared_poller("other", server.load) as other,
        ):
            assert one is not other
            await asyncio.gather(one.run(ask()), other.run(ask()))
            assert (server.loads, server.connections) == (2, 2)

    run(test())


def test_two_event_loops_do_not_share() -> None:
    both = threading.Barrier(2, timeout=20)
    pollers: list[Poller] = []

    async def test() -> None:
        async with serving() as server, shared_poller("key", server.load) as shared:
            pollers.append(shared)
            await asyncio.to_thread(both.wait)
            assert (await shared.run(ask())).status == "completed"
            await asyncio.to_thread(both.wait)
            assert (server.loads, server.connections) == (1, 1)

    with ThreadPoolExecutor(2) as threads:
        for ended in [threads.submit(asyncio.run, asyncio.wait_for(test(), 30)) for _ in range(2)]:
            ended.result()
    assert len(set(map(id, pollers))) == 2
    assert poller._pollers == {}


# --- each on its own


async def cancel_beside_another(shared: Poller, going: asyncio.Task[Any]) -> None:
    """Cancel a flow; another one that is under way at the same time is not touched."""
    other = asyncio.create_task(shared.run(wait("other")))
    await asyncio.sleep(0.02)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert (await other).status == "completed"


def test_a_flow_is_cancelled_alone_while_it_pauses() -> None:
    def pauses(settings: Settings) -> Flow[Any]:
        yield Pause(0.1, 0)
        return (yield Send(api.task_status(settings, "too late")))

    async def test() -> None:
        async with serving() as server, shared_poller("key", server.load) as shared:
            await cancel_beside_another(shared, asyncio.create_task(shared.run(pauses)))
            await asyncio.sleep(0.3)  # past the cancelled one's time
            assert server.tasks == ["other"]

    run(test())


def test_a_flow_is_cancelled_alone_while_it_sends() -> None:
    async def test() -> None:
        async def answer(request: dict[str, Any]) -> bytes:
            return NOTHING if request["task_id"] == "hangs" else reply(DONE)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            hanging = [asyncio.create_task(shared.run(ask("hangs"))) for _ in range(WORKERS - 1)]
            await server.arrived(WORKERS - 1)
            for going in hanging:
                await cancel_beside_another(shared, going)

    run(test())


def test_a_flow_is_cancelled_alone_while_the_gate_is_closed_and_sends_nothing_more() -> None:
    async def test() -> None:
        async def answer(request: dict[str, Any]) -> bytes:
            return refused("1") if request["task_id"] == "refused" else reply(DONE)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            with pytest.raises(HttpStatusError):
                await shared.run(ask("refused"))
            await cancel_beside_another(shared, asyncio.create_task(shared.run(ask("too late"))))
            assert server.tasks == ["refused", "other"]

    run(test())


def test_a_flow_is_cancelled_alone_before_its_turn_and_sends_nothing_more() -> None:
    async def test() -> None:
        async with serving() as server, shared_poller("key", server.load) as shared:
            server.extra = {"requests_per_second": 4}
            await shared.run(ask("first"))
            await cancel_beside_another(shared, asyncio.create_task(shared.run(ask("too late"))))
            assert server.tasks == ["first", "other"]

    run(test())


def test_a_flow_is_cancelled_alone_while_the_connection_is_read() -> None:
    async def test() -> None:
        reading = 0

        async def load() -> Settings:
            nonlocal reading
            reading += 1
            if reading == 1:
                await asyncio.Event().wait()  # its reader is cancelled, the next one reads by itself
            return await server.load()

        async with serving() as server, shared_poller("key", load) as shared:
            await cancel_beside_another(shared, asyncio.create_task(shared.run(ask("too late"))))
            assert (server.tasks, reading) == (["other"], 2)

    run(test())


def test_a_flow_that_fails_or_breaks_touches_no_other() -> None:
    def breaks_at_once(_: Settings) -> Flow[Any]:
        raise ZeroDivisionError

    def breaks_when_resumed(_: Settings) -> Flow[Any]:
        yield Pause(0, 0)
        raise ZeroDivisionError

    def breaks_after_an_answer(settings: Settings) -> Flow[Any]:
        yield Send(api.task_status(settings, "task"))
        raise ZeroDivisionError

    def cannot_read(settings: Settings) -> Flow[Any]:
        call = api.task_status(settings, "task")
        yield Send(Call(call.endpoint, call.request, lambda _: 1 / 0))

    async def test() -> None:
        looks = 0

        async def answer(request: dict[str, Any]) -> bytes:
            nonlocal looks
            if request["task_id"] == "fails":
                return reply(b'{"error": 403}')
            looks += request["task_id"] == "good"
            return reply(DONE if looks >= 100 else RUNNING)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            good = [asyncio.create_task(shared.run(wait("good"))) for _ in range(10)]
            for broken in (breaks_at_once, breaks_when_resumed, breaks_after_an_answer, cannot_read):
                # As often as there are workers that it could end.
                broke = (shared.run(broken) for _ in range(WORKERS))
                ends = await asyncio.gather(*broke, return_exceptions=True)
                assert {type(end) for end in ends} == {ZeroDivisionError}
            with pytest.raises(ApiError):
                await shared.run(ask("fails"))
            assert {status.status for status in await asyncio.gather(*good)} == {"completed"}

    run(test())


def test_workers_have_an_empty_context_and_each_flow_has_its_owners() -> None:
    of = contextvars.ContextVar("of", default="nobody")

    async def test() -> None:
        seen: dict[str, list[str]] = {"a": [], "b": [], "read": []}

        def flow(settings: Settings) -> Flow[Any]:
            def read(_: api.Reply) -> None:
                seen["read"].append(of.get())

            log = seen[of.get()]
            call = Call("tasks/status", api.task_status(settings, "task").request, read)
            yield Send(call)
            log.append(of.get())
            yield Pause(0, 0)
            log.append(of.get())
            yield Reload()
            log.append(of.get())

        async def load() -> Settings:
            loaded_by.append(of.get())
            return await server.load()

        async def owner(name: str) -> None:
            of.set(name)
            async with shared_poller("key", load) as shared:
                await shared.run(flow)
                await shared.run(flow)

        loaded_by: list[str] = []
        async with serving() as server:
            await asyncio.gather(owner("a"), owner("b"))
        assert seen == {"a": ["a"] * 6, "b": ["b"] * 6, "read": ["nobody"] * 4}
        assert loaded_by
        assert set(loaded_by) <= {"a", "b"}

    run(test())


# --- the gate, and the turns


def test_retry_after_closes_the_gate_for_all_but_not_beyond_a_flows_deadline() -> None:
    async def test() -> None:
        async def answer(request: dict[str, Any]) -> bytes:
            return refused("1") if request["task_id"] == "refused" else reply(DONE)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            with pytest.raises(HttpStatusError) as caught:
                await shared.run(ask("refused"))
            assert caught.value.retry_after == 1
            waiting = [asyncio.create_task(shared.run(ask("waits"))) for _ in range(50)]
            due = asyncio.create_task(shared.run(ask("due", by=time.time() + 0.2)))
            overdue = asyncio.create_task(shared.run(ask("overdue", by=time.time() - 5)))
            await asyncio.gather(*waiting, due, overdue)
        assert server.tasks[:3] == ["refused", "overdue", "due"]
        assert server.tasks[3:] == ["waits"] * 50
        assert server.times[3] - server.times[0] >= 1

    run(test())


def test_retry_after_counts_also_for_requests_that_wait_for_their_turn() -> None:
    async def test() -> None:
        async def answer(request: dict[str, Any]) -> bytes:
            return refused("1") if request["task_id"] == "refused" else reply(DONE)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            server.extra = {"requests_per_second": 10}
            asked = [asyncio.create_task(shared.run(ask(n))) for n in ("refused", "a", "b", "c")]
            await asyncio.gather(*asked, return_exceptions=True)
        assert server.tasks[0] == "refused"
        assert sorted(server.tasks[1:]) == ["a", "b", "c"]
        assert server.times[1] - server.times[0] >= 1

    run(test())


def test_requests_per_second_is_kept_across_flows() -> None:
    async def test() -> None:
        async with serving() as server:
            server.extra = {"requests_per_second": 25}
            begun = time.monotonic()
            await asyncio.gather(*(server.start(ask(str(n))) for n in range(11)))
        assert server.times[-1] - begun >= 10 / 25

    run(test())


# --- the connection


def test_a_rotated_token_is_read_once_for_all_and_breaks_no_request_under_way() -> None:
    async def test() -> None:
        read_again = asyncio.Event()

        async def answer(request: dict[str, Any]) -> bytes:
            if request["task_id"] == "slow":  # accepted with the old token, answered long after
                await read_again.wait()
                return reply(DONE)
            if request["token"] == "new":
                read_again.set()
                return reply(DONE)
            return reply(BAD_TOKEN) if server.token == "new" else reply(RUNNING)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            slow = asyncio.create_task(shared.run(ask("slow")))
            waits = [asyncio.create_task(shared.run(wait(str(n)))) for n in range(100)]
            await server.arrived(300)
            server.token = "new"
            found = await asyncio.gather(slow, *waits)
            assert {status.status for status in found} == {"completed"}
            assert server.loads == 2
        tokens = {request["task_id"]: request["token"] for request in server.requests}
        assert tokens.pop("slow") == "t0ken"
        assert set(tokens.values()) == {"new"}

    run(test())


def test_a_token_that_stays_wrong_ends_each_flow_after_it_was_read_once_more() -> None:
    async def test() -> None:
        async def answer(_: dict[str, Any]) -> bytes:
            return reply(BAD_TOKEN)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            ends = await asyncio.gather(*(shared.run(wait()) for _ in range(20)), return_exceptions=True)
            assert {type(end) for end in ends} == {ApiError}
            assert all(isinstance(end, ApiError) and end.permanent for end in ends)
            assert len(server.requests) == 40
            assert 2 <= server.loads <= 4  # those that asked while it was read share the one reading
            assert server.connections <= WORKERS  # nothing changed, so the session stayed

    run(test())


def test_settings_that_read_the_same_keep_the_session() -> None:
    def reloads(settings: Settings) -> Flow[Any]:
        for _ in range(5):
            yield Send(api.task_status(settings, "task"))
            settings = yield Reload()

    async def test() -> None:
        async with serving() as server:
            await server.start(reloads)
        assert (server.loads, server.connections) == (6, 1)

    run(test())


def test_a_session_is_replaced_while_others_send() -> None:
    async def test() -> None:
        async with serving() as server, shared_poller("key", server.load) as shared:
            server.extra = {"verify": False, "requests_per_second": 300}  # one after the other, by workers

            def reloads(_: Settings) -> Flow[Any]:
                for n in range(100):
                    server.token = f"t0ken {n}"
                    yield Reload()

            asked = [asyncio.create_task(shared.run(ask())) for _ in range(100)]
            await shared.run(reloads)
            assert {status.status for status in await asyncio.gather(*asked)} == {"completed"}

    run(test())


def test_after_five_failed_looks_the_connection_is_read_and_a_server_that_moved_is_found() -> None:
    async def test() -> None:
        async with serving() as server, shared_poller("key", server.load) as shared:
            there = server.port
            gone = await asyncio.start_server(server.serve, "127.0.0.1")
            server.port = gone.sockets[0].getsockname()[1]
            gone.close()
            await gone.wait_closed()
            with pytest.raises(NotSentError):
                await shared.run(ask())
            server.port = there
            # The pause after a fifth failure is long, and cut short by the deadline.
            assert (await shared.run(wait(timeout=0.5, failures=4))).status == "completed"
            assert server.loads == 2

    run(test())


def test_a_connection_that_cannot_be_read_fails_only_who_asked_for_it() -> None:
    async def test() -> None:
        async with serving() as server:
            failing = ["first", "at the reload"]

            async def load() -> Settings:
                if failing and (failing[0] == "first" or server.loads):
                    failing.pop(0)
                    raise ConfigurationError("there is no such connection")
                return await server.load()

            def reloads(_: Settings) -> Flow[str]:
                try:
                    yield Reload()
                except SegStatsError as error:
                    return str(error)
                return "read"

            async with shared_poller("key", load) as shared:
                ends = await asyncio.gather(*(shared.run(ask()) for _ in range(3)), return_exceptions=True)
                assert [type(end).__name__ for end in ends] == [
                    "ConfigurationError",
                    "TaskStatus",
                    "TaskStatus",
                ]
                assert await shared.run(reloads) == "there is no such connection"
                assert await shared.run(reloads) == "read"
                assert (await shared.run(ask())).status == "completed"

    run(test())


# --- answers


def padded(status: str, size: int) -> bytes:
    body = b'{"error": 0, "data": {"status": "%s", "result": [], "pad": ""}}' % status.encode()
    return body.replace(b'""', b'"%s"' % (b"x" * (size - len(body))))


@pytest.mark.parametrize("status", ["running", "completed"])
def test_an_answer_too_large_for_the_event_loop_is_left_to_who_can_afford_it(status: str) -> None:
    async def test() -> None:
        size = LARGE_BODY

        async def answer(_: dict[str, Any]) -> bytes:
            return reply(padded(status, size))

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            assert (await shared.run(ask(), leave_large=True)).status == status
            size += 1
            with pytest.raises(LargeAnswer):
                await shared.run(ask(), leave_large=True)
            assert (await shared.run(ask())).status == status
        assert LARGE_BODY == 32 * 1024

    run(test())


def test_a_large_error_page_is_a_failed_look_like_any_other() -> None:
    async def test() -> None:
        pages = [reply(b"<html>" + b"x" * 100_000, "503 Service Unavailable", Retry_After="1")]

        async def answer(_: dict[str, Any]) -> bytes:
            return pages.pop() if pages else reply(DONE)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            assert (await shared.run(wait(), leave_large=True)).status == "completed"
            assert server.times[1] - server.times[0] >= 1

    run(test())


def test_all_looks_of_a_wait_send_one_request_that_is_encoded_once() -> None:
    settings = Settings.from_fields(host="example.com", password="t")
    flow = wait()(settings)
    step, requests = next(flow), []
    for status in ("queued", "running", "running"):
        assert isinstance(step, Send)
        requests.append(step.call.request)
        flow.send(TaskStatus(status, None, ()))
        step = flow.send(None)
    assert all(request is requests[0] for request in requests)


def test_a_wait_ends_at_its_deadline_though_the_server_wants_to_be_left_alone() -> None:
    async def test() -> None:
        async def answer(_: dict[str, Any]) -> bytes:
            return refused("3600")

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            with pytest.raises(WaitTimeoutError):
                await shared.run(wait(timeout=0.5))
            assert len(server.requests) == 2

    run(test())
