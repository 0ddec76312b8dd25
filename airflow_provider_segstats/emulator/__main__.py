"""``python -m airflow_provider_segstats.emulator``: the emulator from a shell."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys

from airflow_provider_segstats.emulator import Emulator, Fault, control
from airflow_provider_segstats.emulator.faults import KINDS
from airflow_provider_segstats.emulator.state import NEXT_FROM_ID
from airflow_provider_segstats.emulator.tasks import OUTCOMES

VARIABLE = "SEGSTATS_EMULATOR_TOKEN"

_EPILOG = f"""\
Control routes, as JSON and without a token, on the same port (so keep --host a loopback address):
  GET, DELETE       {control.PREFIX}/journal     every request so far; forget them
  GET               {control.PREFIX}/tasks       every submission ever accepted
  POST              {control.PREFIX}/tasks/ID    change a task's fate: {{"outcome": "failed"}}
  GET, POST, DELETE {control.PREFIX}/faults      faults to come: {{"kind": "http", "status": 503, "times": 2}}
  GET, POST         {control.PREFIX}/clock       {{"now": "2030-01-01T02:00Z", "advance": 60, "frozen": true}}
  GET, POST         {control.PREFIX}/settings    {{"token": "rotated", "seconds": 60}}
  POST              {control.PREFIX}/seed        what there is from now on, as in the --seed file

Kinds of fault: {", ".join(KINDS)}.
They are described by: python -m pydoc airflow_provider_segstats.emulator.Fault

A task's fates:
{chr(10).join(f"  {name:15} {meaning}" for name, meaning in OUTCOMES.items())}

Examples, of a lost answer and of a segment that falls to a tenth of its size:
  curl -d '{{"kind": "lost_answer", "endpoint": "segments/refresh_counters"}}' \\
      http://127.0.0.1:8080{control.PREFIX}/faults
  curl -d '{{"kind": "counters", "segment_id": 7, "factor": 0.1, "times": null}}' \\
      http://127.0.0.1:8080{control.PREFIX}/faults
"""


def main(arguments: list[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; a mistake in the arguments ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_segstats.emulator",
        description="A local server of the segment-statistics API, with faults on demand.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0 for any free one (default %(default)s)")
    parser.add_argument(
        "--token",
        default=os.environ.get(VARIABLE),
        help=f"what requests carry; better as {VARIABLE} in the environment, which no process list shows",
    )
    parser.add_argument(
        "--base-path", default="/api/v1.1", help="path before the methods (default %(default)s)"
    )
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="SQLite file in which tasks and clock outlive the server (default: memory)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        help="how long a task takes, give or take a tenth (default %(default)s)",
    )
    parser.add_argument(
        "--errors-as-200", action="store_true", help="give every API error the HTTP status 200"
    )
    parser.add_argument(
        "--next-from-id",
        choices=NEXT_FROM_ID,
        default=NEXT_FROM_ID[0],
        help="where a list's next_from_id points: its last id, or beyond (default %(default)s)",
    )
    parser.add_argument(
        "--seed", metavar="FILE", help="JSON file of what there is, see docs/emulator.md (default: every id)"
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="JSON",
        type=_fault,
        help="a fault to begin with, as the control route takes it; may be given several times",
    )
    options = parser.parse_args(arguments)
    faults = options.__dict__.pop("fault")
    if not options.token:
        parser.error(f"a token is needed: --token, or {VARIABLE} in the environment")
    try:
        emulator = Emulator(**vars(options))
    except ValueError as error:
        parser.error(str(error))
    except sqlite3.Error as error:
        parser.error(f"the state file cannot be used: {error}")

    for fault in faults:
        emulator.add_fault(fault)

    def announce() -> None:
        routes = "journal, tasks, faults, clock, settings, seed (see --help)"
        sys.stdout.write(
            f"segstats emulator: {emulator.url}{emulator.base_path}\n"
            f"control routes: {emulator.url}{control.PREFIX}/ and {routes}\n"
        )
        sys.stdout.flush()

    # Both signals end in a KeyboardInterrupt once uvicorn has shut down, so that the state file is closed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        emulator.run(announce)
    except (OSError, OverflowError) as error:
        parser.error(f"cannot listen on {options.host}:{options.port}: {error}")
    except KeyboardInterrupt:
        pass
    finally:
        emulator.close()


def _fault(text: str) -> Fault:
    try:
        return Fault.from_json(json.loads(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    main()
