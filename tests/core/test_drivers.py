"""The drivers of flows over real sockets, on a thread and on an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from support.transports import TOKEN, WAYS, settings

from airflow_provider_segstats.core import api, client, flows
from airflow_provider_segstats.core.errors import ApiError, ConfigurationError, NoAnswerError
from airflow_provider_segstats.core.model import ListedDatabase
from airflow_provider_segstats.core.poller import shared_poller
from airflow_provider_segstats.core.transport import turn
from airflow_provider_segstats.emulator import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_segstats.core.settings import Settings
    from airflow_provider_segstats.emulator import Emulator


def drive(way: str, flow: flows.Flow[Any], of: Settings, reload: Callable[[], Settings]) -> Any:
    if way == "sync":
        return client.run(flow, of, reload=reload, pause=lambda _: None)

    loads = iter([lambda: of])

    async def load() -> Settings:
        return next(loads, reload)()

    async def drive_it() -> Any:
        async with shared_poller("here", load) as poller:
            return await poller.run(lambda _: flow)

    return asyncio.run(drive_it())


@pytest.mark.parametrize("way", WAYS)
class TestDrivers:
    def test_a_call_over_the_wire_gives_its_typed_result(self, way: str, emulator: Emulator) -> None:
        of = settings(emulator.url, emulator.token)
        page = drive(way, flows.one_call(api.list_databases(of)), of, lambda: of)
        assert page.things == {1: ListedDatabase(1, "Customers")}

    def test_errors_of_reply_and_transport_name_their_endpoint(self, way: str, emulator: Emulator) -> None:
        of = settings(emulator.url, token="wrong")
        emulator.add_fault(Fault("reset"))
        for kind in (NoAnswerError, ApiError):
            with pytest.raises(kind) as caught:
                drive(way, flows.one_call(api.list_databases(of)), of, lambda: of)
            assert caught.value.endpoint == "databases/list"

    def test_after_a_reload_the_new_settings_server_is_asked(
        self, way: str, make_emulator: Callable[..., Emulator]
    ) -> None:
        old, new = (settings(make_emulator(TOKEN).url) for _ in range(2))

        def flow() -> flows.Flow[Settings]:
            yield flows.Send(api.list_databases(old))
            of = yield flows.Reload()
            yield flows.Pause(0.0, failures=0)
            yield flows.Send(api.list_databases(of))
            return of

        assert drive(way, flow(), old, lambda: new) is new

    def test_a_reload_that_fails_is_thrown_into_the_flow(self, way: str, emulator: Emulator) -> None:
        of = settings(emulator.url)

        def gone() -> Settings:
            raise ConfigurationError("gone")

        def flow() -> flows.Flow[str]:
            try:
                yield flows.Reload()
            except ConfigurationError as error:
                return str(error)
            return "nothing"

        assert drive(way, flow(), of, gone) == "gone"


def test_turns_space_the_requests_to_one_server_evenly() -> None:
    of = settings("http://turns.invalid", requests_per_second=4)
    same = settings("http://turns.invalid", token="other", requests_per_second=4)
    other = settings("http://other.invalid", requests_per_second=4)
    assert [turn(of, 100.0), turn(same, 100.0), turn(of, 100.0)] == [0, 0.25, 0.5]
    assert turn(other, 100.0) == 0
    assert turn(of, 100.5) == 0.25
    assert turn(of, 200.0) == 0


def test_without_a_limit_every_turn_is_now() -> None:
    of = settings("http://turns.invalid")
    assert [turn(of, 100.0) for _ in range(3)] == [0, 0, 0]
