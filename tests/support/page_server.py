"""What the page's tests see: a history, and who asks a real API server for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import requests

from airflow_provider_segstats.history import Observation, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from local_airflow.stack import AirflowStack
    from support.airflow_rows import Rows

NIGHTLY, OTHER = "nightly_segment_refresh", "another_teams_nights"
TONIGHT = date(2026, 3, 31)
NIGHTS = 40
SCHEMA = "warehouse"
TABLE = f"{SCHEMA}.segment_counters"
HOSTILE = '<script>alert("gold")</script>'
NAMES = {7: "Gold customers", 70: "Gold, lapsed", 8: HOSTILE, 9: "Ørsted & søn"}
REASON = "task 4711 failed: no such list"
USERS = {"viewer": "viewer", "user": "user", "op": "op"}


def counts(segment_id: int, channel: str, night: int) -> int:
    """Return what was counted, of so many nights ago."""
    base = {"email": 1000, "sms": 100}[channel] * segment_id
    return base - night


def run_id(night: date) -> str:
    return f"scheduled__{night}"


def observations(tonight: date = TONIGHT) -> Iterator[Observation]:
    for ago in range(NIGHTS):
        night = tonight - timedelta(days=ago)
        updated = datetime(night.year, night.month, night.day, 3, 5, tzinfo=timezone.utc)
        for number, name in NAMES.items():
            if number == 9 and ago < 3:  # failed of late
                continue
            for channel in ("email", "sms"):
                counters = {"subscribed_sendable": counts(number, channel, ago)}
                yield Observation("shop", number, 1, 24, channel, updated, counters, night, name=name)
        yield Observation("club", 500, 1, 24, "email", updated, {"subscribed_sendable": 50}, night)
        if ago == 5:  # and then it left the list
            yield Observation("shop", 11, 1, 24, "email", updated, {"subscribed_sendable": 5}, night)


def outcomes(tonight: date = TONIGHT) -> Iterator[Outcome]:
    for ago in range(NIGHTS):
        night = tonight - timedelta(days=ago)
        run = (run_id(night), night, datetime(night.year, night.month, night.day, 3, tzinfo=timezone.utc))
        for number in NAMES:
            failed = number == 9 and ago < 3
            outcome: Any = ("failed", REASON) if failed else ("counted",)
            yield Outcome("shop", NIGHTLY, *run, "segment", number, *outcome)
        if ago == 0:
            yield Outcome("shop", NIGHTLY, *run, "segment", 10, "not_submitted", "not submitted")
        yield Outcome("club", OTHER, *run, "segment", 500, "counted")


@dataclass
class Server:
    """The API server, and whoever asks it."""

    airflow: AirflowStack
    rows: Rows
    _tokens: dict[str, str] = field(default_factory=dict)

    def get(
        self,
        path: str,
        user: str | None = "viewer",
        *,
        by: str = "cookie",
        method: str = "GET",
        **parameters: Any,
    ) -> requests.Response:
        """Ask for a path of the page's app, as a browser does (by its cookie) or a script (by a header)."""
        with requests.Session() as session:
            session.trust_env = False
            if user is not None:
                token = self.token(user)
                if by == "cookie":
                    session.cookies.set("_token", token)
                else:
                    session.headers["Authorization"] = f"Bearer {token}"
            url = f"{self.airflow.url}/segstats/{path}"
            return session.request(method, url, params=parameters, timeout=60)

    def token(self, user: str) -> str:
        """Return a user's token; ``broken`` is nobody's."""
        if user == "broken":
            return "x.y.z"
        if user not in self._tokens:
            self._tokens[user] = self.airflow.token(user)
        return self._tokens[user]

    def point_at(self, *, conn_id: str = "segstats_history", table: str = TABLE) -> None:
        """Say where the history is, as the DAG segment_report has it said."""
        for key, value in (("segstats_history_conn_id", conn_id), ("segstats_history_table", table)):
            self.airflow.request("PATCH", "variables", key, json={"key": key, "value": value})
