"""Notifiers in a triggerer or an executor, as deadline alerts run them. For real: ``test_lives``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from airflow.sdk import AsyncCallback, BaseNotifier, SyncCallback
from support.versions import deserialize, serialize

from airflow_provider_segstats.notifications import SegStatsNotifier

RUN = {"dag_run": {"dag_id": "nightly"}, "deadline": {"id": "x"}}
NO_TABLE = "There is no table: this is about a run, not a task."


class Kept(BaseNotifier):
    """Keeps what it would send, and whether it was awaited."""

    template_fields = ("text",)
    sent: list[tuple[str, str]] = []  # noqa: RUF012 - shared with the copies that are sent

    def __init__(self, text: str = "{{ dag_run.dag_id }}: {{ segstats_table }}") -> None:
        super().__init__()
        self.text = text

    def notify(self, _: Any) -> None:
        self.sent.append(("called", self.text))

    async def async_notify(self, _: Any) -> None:
        self.sent.append(("awaited", self.text))


class SyncOnly(BaseNotifier):
    def notify(self, _: Any) -> None: ...


PATH = f"{Kept.__module__}.Kept"


@pytest.fixture(autouse=True)
def _nothing_sent() -> None:
    Kept.sent.clear()


async def awaited(notifier: SegStatsNotifier) -> None:
    await notifier


def test_awaited_it_awaits_the_other_and_says_that_a_run_has_no_table() -> None:
    asyncio.run(awaited(SegStatsNotifier(Kept(), context=RUN)))
    assert Kept.sent == [("awaited", f"nightly: {NO_TABLE}")]


def test_awaited_twice_it_renders_anew() -> None:
    kept = Kept()
    for dag_id in ("first", "second"):
        asyncio.run(awaited(SegStatsNotifier(kept, context={"dag_run": {"dag_id": dag_id}})))
    assert [text.partition(":")[0] for _, text in Kept.sent] == ["first", "second"]


def test_one_that_only_calls_is_refused_by_name_where_it_would_have_to_be_awaited() -> None:
    with pytest.raises(NotImplementedError, match=r"^SyncOnly has no async_notify"):
        asyncio.run(awaited(SegStatsNotifier(SyncOnly(), context=RUN)))


@pytest.mark.since("3.2", "notifiers as deadline alerts")
@pytest.mark.parametrize("kind", [AsyncCallback, SyncCallback])
def test_an_alerts_callback_survives_airflows_json_and_names_the_other_by_its_path(kind: Any) -> None:
    told = {"notifier": PATH, "arguments": {"text": "{{ segstats_table }}"}, "max_rows": 3}
    back = deserialize(serialize(kind(SegStatsNotifier, told)))
    from airflow._shared.module_loading import accepts_context

    assert accepts_context(SegStatsNotifier)  # else Airflow would leave it out
    notifier = SegStatsNotifier(**back.kwargs, context=RUN)
    notifier(RUN)
    assert Kept.sent == [("called", NO_TABLE)]
