"""Loads, checks and notifications as Airflow runs them, with the DAGs of ``docs/history.md``."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.airflow_runs import DAGS, connection, run_dags
from support.paths import DOCS
from support.smtp_server import MailServer

from airflow_provider_segstats import history
from airflow_provider_segstats.emulator import Emulator
from airflow_provider_segstats.history import Observation

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = DOCS / "history.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
LAST_NIGHT = datetime.now(tz=timezone.utc) - timedelta(days=1)


class Runs:
    """What became of the DAGs, and what they left behind."""

    def __init__(
        self, folder: Path, emulator: Emulator, mail_server: MailServer, patch: pytest.MonkeyPatch
    ) -> None:
        file = folder / "history.py"
        python = [code for language, code in BLOCKS if language == "python"]
        file.write_text("\n\n".join([*python, (DAGS / "history.py").read_text()]))
        env = {
            "AIRFLOW_CONN_SEGSTATS_DEFAULT": connection(emulator.url, emulator.token, account="acme"),
            "NOTES": str(folder / "notes.txt"),
            "AIRFLOW_CONN_WAREHOUSE": json.dumps(
                {"conn_type": "sqlite", "host": str(folder / "warehouse.db")}
            ),
            "AIRFLOW_CONN_SMTP_DEFAULT": mail_server.connection,
        }
        patch.setenv("AIRFLOW_CONN_WAREHOUSE", env["AIRFLOW_CONN_WAREHOUSE"])
        self.hook = history.database("warehouse")
        history.create(self.hook, "segment_counters")
        # What the emulator counts tonight is far less, and no segment has this channel.
        dropped = [
            Observation(
                "acme", 8, 9, 24, channel, LAST_NIGHT, {"subscribed_sendable": 10**6}, LAST_NIGHT.date()
            )
            for channel in ("email", "carrier <pigeon>")
        ]
        history.write(self.hook, "segment_counters", dropped)
        self.tasks = run_dags(file, env, 120)
        self.mails = mail_server.mails
        self.notes = (folder / "notes.txt").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("history")
    with (
        Emulator("t0ken", seconds=0.0) as emulator,
        MailServer() as mail_server,
        pytest.MonkeyPatch.context() as patch,
    ):
        yield Runs(folder, emulator, mail_server, patch)


def loaded(runs: Runs, dag_id: str, task_id: str) -> Any:
    task = runs.tasks[dag_id][task_id]
    assert task["state"] == "success"
    return task["xcom"]["return_value"]


def counted(runs: Runs, dag_id: str, task_id: str) -> tuple[int, int]:
    found = loaded(runs, dag_id, task_id)
    return found["inserted"], found["already_there"]


def test_a_retry_after_the_rows_were_written_finds_them_there(runs: Runs) -> None:
    [[_, first_try, _]] = runs.tasks["loads"]["retried"]["errors"]
    assert first_try.startswith("lost after {'inserted': 3, 'already_there': 0, ")
    assert counted(runs, "loads", "retried") == (0, 3)


def test_a_rerun_with_a_newer_updated_adds_to_the_table(runs: Runs) -> None:
    assert counted(runs, "loads", "newer") == (3, 0)
    assert runs.hook.get_first("SELECT COUNT(*), COUNT(DISTINCT updated) FROM loads") == (6, 2)


def test_the_outputs_of_a_mapped_task_are_loaded_under_the_account(runs: Runs) -> None:
    assert counted(runs, "segment_history", "load") == (9, 0)
    tonight = runs.hook.get_records(
        "SELECT DISTINCT source, segment_id FROM segment_counters WHERE updated > ? ORDER BY segment_id",
        [f"{LAST_NIGHT:%Y-%m-%dT%H:%M:%S.999999Z}"],
    )
    assert tonight == [("acme", 7), ("acme", 8), ("acme", 9)]


def test_rows_of_ones_own_are_loaded_without_the_operator(runs: Runs) -> None:
    assert loaded(runs, "import_old_counters", "load") == {"inserted": 1, "already_there": 0}


def test_an_injected_drop_and_a_lost_channel_fail_the_check_in_one_line_and_at_once(runs: Runs) -> None:
    check = runs.tasks["segment_history"]["check"]
    assert (check["state"], check["tries"]) == ("failed", 1)
    [[kind, line, chained]] = check["errors"]
    assert (kind, chained) == ("AirflowFailException", "")
    assert line.startswith("2 findings in segment_counters: segment 8, carrier <pigeon> vanished; ")
    assert "segment 8, email: subscribed_sendable fell by 100% to " in line


def test_the_findings_are_left_for_other_tasks(runs: Runs) -> None:
    findings = runs.tasks["segment_history"]["check"]["xcom"]["findings"]
    assert [(of["what"], of["id"], of["channel"]) for of in findings] == [
        ("vanished", 8, "carrier <pigeon>"),
        ("fell", 8, "email"),
    ]


def test_the_mail_has_the_line_as_subject_and_the_findings_as_a_table(runs: Runs) -> None:
    [mail] = runs.mails
    assert mail["To"] == "team@example.com"
    assert mail["Subject"].startswith("segment_history: 2 findings in segment_counters: segment 8, ")
    html = mail.get_body(("html",)).get_content()
    heading, pigeon, email = html.partition("</pre>")[0].removeprefix("<pre>").splitlines()[:3]
    assert heading.split() == ["what", "of", "channel", "count", "expected"]
    assert pigeon.split() == ["vanished", "segment", "8", "carrier", "&lt;pigeon&gt;", "1,000,000"]
    assert email.split()[:4] == ["fell", "segment", "8", "email"]
    assert email.split()[-3:] == ["50,000", "to", "20,000,000"]


def test_the_rows_that_a_task_returned_are_a_table_for_any_notifier_each_time_anew(runs: Runs) -> None:
    for note, task_id in zip(runs.notes.strip().split("\n\n"), ("first", "second"), strict=True):
        title, heading, *rows, rest = note.splitlines()
        returned = runs.tasks["loads"][task_id]["xcom"]["return_value"]
        assert title == task_id
        assert heading.split() == ["of", "channel", "subscribed_sendable", "unconfirmed_sendable", "updated"]
        counters = ("subscribed_sendable", "unconfirmed_sendable")
        assert [row.split()[2:-2] for row in rows] == [
            [row["channel"], *(f"{row[counter]:,}" for counter in counters)] for row in returned[:2]
        ]
        assert rest == "… and 1 more"
