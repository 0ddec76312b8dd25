"""How far waits are: what is told of it, how often, and that telling never ends a wait."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow_provider_segstats.boundary import progress
from airflow_provider_segstats.core.progress import Counts, Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

AT = 1774926000.0  # 2026-03-31T03:00:00Z


def run(
    waits: list[Callable[[], Any]], write: Callable[[Any], Awaitable[None]], until: Callable[[], bool]
) -> None:
    """Show waits until the condition holds."""

    async def all_() -> None:
        async def one(describe: Callable[[], Any]) -> None:
            with progress.shown(describe, write):
                while not until():  # noqa: ASYNC110 - whatever the condition is
                    await asyncio.sleep(0.01)

        await asyncio.gather(*map(one, waits))

    asyncio.run(asyncio.wait_for(all_(), 30))


def test_the_value_says_how_far_each_recount_under_way_is() -> None:
    counts = Counts(total=5, since=AT, done=2, failed=1, before=1)

    assert Progress(counts, {7: 40, 8: None}).value("shop", AT + 61) == {
        "account": "shop",
        "total": 5,
        "done": 2,
        "failed": 1,
        "under_way": 2,
        "percent": None,
        "since": "2026-03-31T03:00:00+00:00",
        "at": "2026-03-31T03:01:01+00:00",
        "segments": [[7, 40], [8, None]],
    }


def test_a_wait_for_one_segment_has_its_per_cent_also_where_the_segment_is_not_known() -> None:
    value = Progress(Counts(1, AT), {None: 40}).value("shop", AT)

    assert (value["percent"], value["segments"], value["under_way"]) == (40, [], 1)


def test_a_line_says_the_rate_of_this_try_and_when_the_rest_may_be_done() -> None:
    counts = Counts(total=100, since=AT, done=38, failed=2, before=10)

    # 30 in the 60 s of this try; the other 60 take twice as long.
    assert Progress(counts, dict.fromkeys(range(20))).line(AT + 60) == (
        "38 of 100 done, 20 under way, 2 failed, 40 to be started; 30.0 a minute, so the rest by 03:03:00 UTC"
    )


def test_a_line_foretells_nothing_before_anything_is_done_nor_after_the_end() -> None:
    assert Progress(Counts(4, AT), {7: None}).line(AT) == "0 of 4 done, 1 under way, 3 to be started"
    assert Progress(Counts(4, AT, done=4)).line(AT + 9) == "4 of 4 done, 0 under way"


def test_a_process_writes_twice_a_second_at_most_and_each_wait_in_its_turn() -> None:
    written: list[tuple[float, str]] = []

    async def write(value: dict[str, Any]) -> None:
        written.append((time.monotonic(), value["name"]))

    def of(name: str) -> Callable[[], dict[str, Any]]:
        return lambda: {"name": name, "at": time.time()}

    run([of("a"), of("b"), of("c")], write, lambda: len(written) >= 3)

    assert [name for _, name in written] == ["a", "b", "c"]
    times = [at for at, _ in written]
    assert all(later - sooner > progress.APART - 0.01 for sooner, later in pairwise(times))


def test_what_has_not_changed_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    monkeypatch.setattr(progress, "APART", 0.0)
    asked, written = [0], []

    def describe() -> dict[str, Any]:
        asked[0] += 1
        return {"done": asked[0] // 4, "at": asked[0]}

    async def write(value: dict[str, Any]) -> None:
        written.append(value["done"])

    run([describe], write, lambda: asked[0] >= 8)

    assert written == [0, 1, 2]


def test_a_write_that_fails_ends_nothing_and_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    monkeypatch.setattr(progress, "APART", 0.0)
    tried = []

    async def write(value: dict[str, Any]) -> None:
        tried.append(value)
        raise OSError("the API server is away")

    run([lambda: {"done": len(tried), "at": 0}], write, lambda: len(tried) >= 3)


def test_a_setting_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SEGSTATS__PROGRESS", "False")
    written: list[Any] = []
    done = asyncio.Event()

    async def write(value: dict[str, Any]) -> None:
        written.append(value)

    async def one() -> None:
        with progress.shown(lambda: {"at": 0}, write):
            asyncio.get_running_loop().call_later(0.1, done.set)
            await done.wait()

    asyncio.run(one())
    teller = progress.Teller(SimpleNamespace(xcom_push=lambda **pushed: written.append(pushed)))
    teller.tell({"at": 0})

    assert written == []


def test_a_worker_writes_its_wait_once_in_half_a_minute() -> None:
    written: list[dict[str, Any]] = []
    teller = progress.Teller(SimpleNamespace(xcom_push=lambda **pushed: written.append(pushed)))

    teller.tell({"percent": 0, "at": 0})
    teller.tell({"percent": 50, "at": 1})

    assert written == [{"key": "segstats_progress", "value": {"percent": 0, "at": 0}}]


def test_a_worker_whose_write_fails_goes_on() -> None:
    def push(**_: Any) -> None:
        raise OSError("the API server is away")

    progress.Teller(SimpleNamespace(xcom_push=push)).tell({"at": 0})
