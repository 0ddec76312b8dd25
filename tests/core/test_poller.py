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
    NoAnswerError,
    NotSentError,
    SegStatsError,
    WaitTimeoutError,
)
from airflow_provider_segstats.core.flows import LargeAnswer, Pause, Reload, Send, World
from airflow_provider_segstats.core.model import Segment, TaskStatus
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
        await asyncio.wait_for(test, 120)
        assert poller._pollers == {}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(limited())


def ask(task_id: str = "task", by: float = float("inf")) -> Callable[[Settings], Flow[Any]]:
    """Return what makes a flow that asks once."""

    def flow(settings: Settings) -> Flow[Any]:
        return (yield Send(api.task_status(settings, task_id), by))

    return flow


WORLD = World(now=time.time, chance=lambda: 0.5, log=logging.getLogger("test"))


def wait(
    task_id: str = "task", timeout: float = 60, base_url: str | None = None, **bounds: Any
) -> Callable[[Settings], Flow[Any]]:
    now = time.time()
    plan = WaitPlan(now, now + timeout, **{"poke_interval": 0.01, **bounds})
    sight = flows.Sight(task_id, base_url)
    return lambda settings: flows.wait(settings, task_id, plan, WORLD, sight)


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
        for ended in [threads.submit(asyncio.run, asyncio.wait_for(test(), 120)) for _ in range(2)]:
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


async def closed_port() -> int:
    gone = await asyncio.start_server(lambda *_: None, "127.0.0.1")
    port: int = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    return port


def test_after_five_failed_looks_the_connection_is_read_and_a_way_that_changed_is_taken() -> None:
    async def test() -> None:
        async with serving() as server, shared_poller("key", server.load) as shared:
            server.extra = {"proxy": f"http://127.0.0.1:{await closed_port()}"}
            with pytest.raises(NotSentError):
                await shared.run(ask())
            server.extra = {}
            # The pause after a fifth failure is long, and cut short by the deadline.
            assert (await shared.run(wait(timeout=3, failures=4))).status == "completed"
            assert server.loads == 2

    run(test())


def test_a_connection_that_cannot_be_read_fails_who_asked_for_it_meanwhile_and_no_other() -> None:
    async def test() -> None:
        async with serving() as server:
            readings = 0

            async def load() -> Settings:
                nonlocal readings
                readings += 1
                if readings in {1, 3}:
                    await asyncio.sleep(0.05)  # Airflow takes its time before it gives up
                    raise ConfigurationError("there is no such connection")
                return await server.load()

            def reloads(_: Settings) -> Flow[str]:
                try:
                    yield Reload()
                except SegStatsError as error:
                    return str(error)
                return "read"

            async with shared_poller("key", load) as shared:
                ends = await asyncio.gather(*(shared.run(ask()) for _ in range(50)), return_exceptions=True)
                assert {type(end) for end in ends} == {ConfigurationError}
                assert len(set(map(id, ends))) == 50  # flows write on their errors
                assert (await shared.run(ask())).status == "completed"
                assert await shared.run(reloads) == "there is no such connection"
                assert await shared.run(reloads) == "read"
                assert (await shared.run(ask())).status == "completed"
                assert readings == 4

    run(test())


def test_a_wait_starts_with_the_connection_as_it_is_now_though_others_keep_the_poller_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async def answer(request: dict[str, Any]) -> bytes:
            return reply(RUNNING if request["task_id"] == "earlier" else DONE)

        async with serving(answer) as server:
            earlier = server.start(wait("earlier"))
            await server.arrived(1)
            server.token, server.extra = "new", {"requests_per_second": 50}
            assert (await server.start(ask("within the minute"))).status == "completed"
            assert server.requests[-1]["token"] == "t0ken"
            monkeypatch.setattr(poller, "FRESH", 0.0)  # a minute later
            assert (await server.start(ask("later"))).status == "completed"
            assert {request["token"] for request in server.requests if request["task_id"] == "later"} == {
                "new"
            }
            [shared] = poller._pollers.values()
            [of_now] = shared._servers.values()
            assert of_now.settings.requests_per_second == 50
            earlier.cancel()
            await asyncio.gather(earlier, return_exceptions=True)

    assert poller.FRESH == 60
    run(test())


def test_a_connection_that_leads_elsewhere_moves_no_wait_that_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two servers give the same ids: each wait has the answer of the one where its task was started."""

    def of(channel: str) -> bytes:
        status = {"status": "completed", "result": [{"channels": [{"channel": channel, "status": {}}]}]}
        return reply(json.dumps({"error": 0, "data": status}).encode())

    async def test() -> None:
        moved = asyncio.Event()

        async def old(_: dict[str, Any]) -> bytes:
            return of("old") if moved.is_set() else reply(RUNNING)

        async def new(_: dict[str, Any]) -> bytes:
            return of("new")

        monkeypatch.setattr(poller, "FRESH", 0.0)
        async with serving(old) as there, serving(new) as here:
            earlier = there.start(wait("task_1"))
            await there.arrived(1)
            there_port, there.port = there.port, here.port
            later = await there.start(wait("task_1"))
            moved.set()
            found = [status.rows(7)[0]["channel"] for status in (await earlier, later)]
            assert found == ["old", "new"]
            there.port = there_port

    run(test())


@pytest.mark.parametrize("when", ["at its start", "after a rotated token", "after five failures"])
def test_no_other_server_is_asked_for_a_task_than_the_one_that_started_it(when: str) -> None:
    async def test() -> None:
        async def old(_: dict[str, Any]) -> bytes:
            there.port = here.port  # the connection is changed from now on
            return reply(BAD_TOKEN if when == "after a rotated token" else b"", "200 OK")

        async with serving(old) as there, serving() as here:
            base_url = f"http://127.0.0.1:{there.port}/api/v1.1"
            if when == "at its start":
                there.port = here.port
            failures = 4 if when == "after five failures" else 0
            with pytest.raises(ConfigurationError) as caught:
                await there.start(wait("task_1", base_url=base_url, failures=failures))
            assert str(caught.value) == (
                f"the task was started at {base_url}, and the connection leads to "
                f"http://127.0.0.1:{here.port}/api/v1.1 now, where its id would be another task's; "
                "set the connection back, or clear the task to count anew"
            )
            assert caught.value.task_id == "task_1"
            assert here.requests == []

    run(test())


def test_a_submit_takes_a_token_that_was_rotated() -> None:
    async def test() -> None:
        async def answer(request: dict[str, Any]) -> bytes:
            server.token = "new"
            accepted = b'{"error": 0, "data": {"task_id": "task_1"}}'
            return reply(accepted if request["token"] == "new" else BAD_TOKEN)

        async with serving(answer) as server:
            submitted = await server.start(
                lambda settings: flows.submit(settings, Segment(7, 24), "fail", WORLD)
            )
            assert (submitted.task_id, submitted.repeated) == ("task_1", False)
            assert [request["token"] for request in server.requests] == ["t0ken", "new"]

    run(test())


# --- deadlines, and a server that is away


async def ends_of(tasks: list[asyncio.Task[Any]]) -> Counter[str]:
    """Return of which kinds the ends of tasks are."""
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    return Counter(type(end).__name__ for end in ends)


def test_waits_end_at_their_deadline_though_all_workers_wait_for_a_server_that_never_answers() -> None:
    async def test() -> None:
        async def answer(_: dict[str, Any]) -> bytes:
            return NOTHING

        async with serving(answer) as server:
            server.extra = {"timeout": 3600}
            waits = [server.start(wait(timeout=4)) for _ in range(500)]
            await until(lambda: sum(task.done() for task in waits) == 500 - WORKERS)
            assert {type(task.exception()) for task in waits if task.done()} == {WaitTimeoutError}
            assert len(server.requests) == WORKERS
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    run(test())


def test_waits_end_at_their_deadline_though_their_turn_has_not_come() -> None:
    async def test() -> None:
        async def answer(_: dict[str, Any]) -> bytes:
            return reply(RUNNING)

        async with serving(answer) as server:
            server.extra = {"requests_per_second": 4}
            waits = [server.start(wait(str(n), timeout=4)) for n in range(300)]
            assert await ends_of(waits) == {"WaitTimeoutError": 300}
            # All of them would have taken 75 s to be looked at once.
            assert len(server.requests) < 30

    run(test())


def test_no_submit_leaves_from_its_deadline_on() -> None:
    async def test() -> None:
        async def answer(_: dict[str, Any]) -> bytes:
            return refused("4")

        async with serving(answer) as server:
            now = time.time()
            plan = WaitPlan(now, now + 2)
            with pytest.raises(WaitTimeoutError) as caught:
                await server.start(
                    lambda settings: flows.submit(settings, Segment(7, 24), "fail", WORLD, plan)
                )
            assert "could not be submitted within timeout (2 s); the latest try: HTTP 429" in str(
                caught.value
            )
            assert len(server.requests) == 1

    run(test())


def test_a_submit_that_waits_for_its_turn_does_not_leave_after_its_deadline() -> None:
    async def test() -> None:
        async with serving() as server, shared_poller("key", server.load) as shared:
            server.extra = {"requests_per_second": 0.5}
            await shared.run(ask("first"))
            now = time.time()
            plan = WaitPlan(now, now + 0.3)
            with pytest.raises(WaitTimeoutError, match="its turn did not come"):
                await shared.run(lambda settings: flows.submit(settings, Segment(7, 24), "fail", WORLD, plan))
            assert server.tasks == ["first"]

    run(test())


@pytest.mark.parametrize("how", ["nobody listens", "503", "no answer in time"])
def test_all_who_wait_for_a_server_that_is_away_give_up_together_after_few_requests(how: str) -> None:
    async def test() -> None:
        async def answer(_: dict[str, Any]) -> bytes:
            if how == "503":
                return reply(b"", "503 Service Unavailable")
            return NOTHING

        async with serving(answer) as server:
            server.extra = {"timeout": 0.2}
            listening = server.port
            if how == "nobody listens":
                server.port = await closed_port()
            waits = [server.start(wait(str(n), max_poll_failures=3)) for n in range(1000)]
            ends = await asyncio.gather(*waits, return_exceptions=True)
            assert all(isinstance(end, SegStatsError) and not end.permanent for end in ends)
            assert {getattr(end, "task_id", "") for end in ends} == {str(n) for n in range(1000)}
            # At first as many as there are workers, then one after each pause.
            assert len(server.requests) <= WORKERS + 5
            told = [str(end) for end in ends if "so it was not asked again" in str(end)]
            assert len(told) > 900
            assert all(line.startswith("tasks/status: the server failed 3 times in a row") for line in told)
            server.port = listening

    run(test())


def test_an_answer_to_anyone_makes_the_count_of_failures_begin_anew_for_all() -> None:
    async def test() -> None:
        now, looked_at = b"", set[str]()

        async def answer(request: dict[str, Any]) -> bytes:
            looked_at.add(request["task_id"])
            return reply(now) if now else reply(b"", "503 Service Unavailable")

        async with serving(answer) as server:
            waits = [server.start(wait(str(n), max_poll_failures=3)) for n in range(50)]
            await server.arrived(1)
            [shared] = poller._pollers.values()
            [of] = shared._servers.values()
            for status in (RUNNING, DONE):  # twice away for two requests in a row
                await until(lambda: of.gate.failures == 2)
                now = status
                looked_at.clear()
                await until(lambda: len(looked_at) == 50)
                now = b""
            assert await ends_of(waits) == {"TaskStatus": 50}

    run(test())


@pytest.mark.parametrize("how", ["no answer in time", "500", "nonsense"])
def test_failures_of_one_tasks_own_count_for_that_task_alone(how: str) -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def answer(request: dict[str, Any]) -> bytes:
            if request["task_id"] != "own":
                return reply(DONE if ended.is_set() else RUNNING)
            if how == "no answer in time":
                return NOTHING
            return reply(b"<html>", "500 Oh" if how == "500" else "200 OK")

        async with serving(answer) as server:
            server.extra = {"timeout": 0.3}
            others = [server.start(wait(str(n))) for n in range(20)]
            with pytest.raises(SegStatsError) as caught:
                await server.start(wait("own", max_poll_failures=2))
            assert "not asked again" not in str(caught.value)
            assert server.tasks.count("own") == 2
            ended.set()
            assert await ends_of(others) == {"TaskStatus": 20}

    run(test())


def test_behind_a_gate_that_closes_again_and_again_each_wait_has_its_turn() -> None:
    async def test() -> None:
        turns: Counter[str] = Counter()  # a refused look was one, too
        begun = since_refusal = most = 0
        all_wait = asyncio.Event()

        def begin(number: int) -> Callable[[Settings], Flow[Any]]:
            def make(settings: Settings) -> Flow[Any]:
                nonlocal begun
                begun += 1
                return wait(str(number))(settings)

            return make

        async def answer(request: dict[str, Any]) -> bytes:
            nonlocal since_refusal, most
            await all_wait.wait()
            turns[request["task_id"]] += 1
            if len(turns) == 200 and not most:
                most = max(turns.values())
            since_refusal += 1
            if since_refusal > 60:
                since_refusal = 0
                return refused("1")
            return reply(RUNNING)

        async with serving(answer) as server:
            waits = [server.start(begin(number)) for number in range(200)]
            await until(lambda: begun == 200)
            all_wait.set()
            await until(lambda: most > 0)
            assert most <= 2  # nobody had a third turn before all had one
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    run(test())


def test_a_shorter_retry_after_does_not_open_a_gate_that_a_longer_one_closed() -> None:
    async def test() -> None:
        longer = asyncio.Event()

        async def answer(request: dict[str, Any]) -> bytes:
            if request["task_id"] == "shorter":
                await longer.wait()
                return refused("1")
            return refused("2") if request["task_id"] == "longer" else reply(DONE)

        async with serving(answer) as server, shared_poller("key", server.load) as shared:
            shorter = asyncio.create_task(shared.run(ask("shorter")))
            await server.arrived(1)
            with pytest.raises(HttpStatusError):
                await shared.run(ask("longer"))
            longer.set()
            with pytest.raises(HttpStatusError):
                await shorter
            await shared.run(ask("next"))
            assert server.tasks == ["shorter", "longer", "next"]
            assert server.times[2] - server.times[1] >= 2

    run(test())


def test_a_worker_that_outlives_its_cancellation_ends_with_its_poller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Python 3.10, where a request that is late just then cannot be told from one that is cancelled."""
    sending = asyncio.Event()

    class Late:
        async def send(self, _: api.Request) -> api.Reply:
            sending.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise NoAnswerError("no whole answer within 30 s") from None
            raise AssertionError

        async def close(self) -> None:
            pass

    async def open_late(*_: object) -> Late:
        return Late()

    async def load() -> Settings:
        return Settings.from_fields(host="example.com", password="t")

    async def test() -> None:
        owner = asyncio.create_task(shared_poller("key", load).run(ask()))
        await sending.wait()
        owner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await owner

    monkeypatch.setattr(poller, "open_transport", open_late)
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
                await shared.run(wait(timeout=2))
            assert len(server.requests) == 2

    run(test())
