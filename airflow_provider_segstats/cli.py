"""The command line: ``airflow segstats …`` (Airflow 3.2) and ``python -m airflow_provider_segstats …``.

Airflow imports this at each of its commands, so it imports nothing heavy until one of these is run. Results
go to standard output, all else to standard error; the exit status is 0, or 1 with one line that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from airflow_provider_segstats.core.defaults import AUTO, DEFAULT_CONN_ID, DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand

    from airflow_provider_segstats.hooks import SegStatsHook

ABOUT = "Segment statistics: try a connection, list segments, recount one."
_MOST_ROWS = 1000


def test(args: argparse.Namespace) -> None:
    """Try the connection, and say what to do where it does not work."""
    works, line = _hook(args).test_connection()
    if not works:
        _fail(line)
    print(line)


def segments(args: argparse.Namespace) -> None:
    """List the segments that the connection's token sees."""
    found = _hook(args).list_segments(ui_tags=args.tag, groups=args.group)
    rows = [
        {
            "id": one.segment_id,
            "name": one.name,
            "ui_tags": list(one.ui_tags),
            "groups": [group.name for group in one.groups],
        }
        for one in found
    ]
    if args.output:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        print(_table(rows))
        _say(f"{len(rows)} segment{'' if len(rows) == 1 else 's'}")


def refresh(args: argparse.Namespace) -> None:
    """Recount a segment: print the task's id or, with --wait, the counters."""
    hook = _hook(args)
    task_id = hook.refresh_counters(args.segment_id, args.resource, args.database)
    if not args.wait:
        print(task_id)
        return
    try:
        rows = hook.wait_for_task(task_id, timeout=args.timeout).rows(args.segment_id)
    except KeyboardInterrupt:
        _fail(f"the recount goes on at the server, as task {task_id}")
    if args.output:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        from airflow_provider_segstats.core.text import as_table

        print(as_table(rows, _MOST_ROWS))


class _Log:
    """What the hook tells of its connection, and of how far a wait is."""

    def info(self, message: str, *args: Any) -> None:
        _say(message % args)

    warning = info


class _Option(NamedTuple):
    flags: tuple[str, ...]
    arguments: Mapping[str, Any]


def _option(*flags: str, **arguments: Any) -> _Option:
    return _Option(flags, arguments)


_CONNECTION = _option(
    "--conn-id", default=DEFAULT_CONN_ID, metavar="ID", help=f"the Airflow connection ({DEFAULT_CONN_ID})"
)
# By this name Airflow knows that its log must not get into standard output.
_JSON = _option("--json", dest="output", action="store_true", help="print JSON")
COMMANDS: Mapping[Callable[[argparse.Namespace], None], Sequence[_Option]] = {
    test: (_CONNECTION,),
    segments: (
        _option("--tag", action="append", default=[], help="those with this tag; may be repeated"),
        _option("--group", action="append", default=[], help="those in this group; may be repeated"),
        _CONNECTION,
        _JSON,
    ),
    refresh: (
        _option("segment_id", type=int, help="the segment's id"),
        _option("--resource", type=int, required=True, metavar="ID", help="its resource's id"),
        _option(
            "--database",
            default=AUTO,
            metavar="ID",
            help="its database's id, '' for none; by default the one that its own rules name",
        ),
        _option("--wait", action="store_true", help="wait for the counters"),
        _option(
            "--timeout",
            type=float,
            default=DEFAULT_TIMEOUT,
            metavar="SECONDS",
            help=f"wait no longer ({DEFAULT_TIMEOUT:.0f})",
        ),
        _CONNECTION,
        _JSON,
    ),
}


def get_cli_commands() -> list[CLICommand]:
    """Return the commands for Airflow's own parser; the provider's info names this function."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    return [
        GroupCommand(
            name="segstats",
            help=ABOUT,
            subcommands=[
                ActionCommand(
                    name=command.__name__,
                    help=_help(command),
                    func=_in_one_line(command),
                    args=[Arg(flags=option.flags, **option.arguments) for option in options],
                )
                for command, options in COMMANDS.items()
            ],
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command without Airflow's own, which take seconds to load."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_segstats", description=ABOUT)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, options in COMMANDS.items():
        of_command = commands.add_parser(command.__name__, help=_help(command), description=_help(command))
        of_command.set_defaults(func=_in_one_line(command))
        for option in options:
            of_command.add_argument(*option.flags, **option.arguments)
    args = parser.parse_args(arguments)
    args.func(args)


def _help(command: Callable[[argparse.Namespace], None]) -> str:
    return str(command.__doc__).rstrip(".")


def _in_one_line(command: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        from airflow_provider_segstats.core.errors import SegStatsError

        try:
            command(args)
        except SegStatsError as error:
            _fail(str(error))

    return run


def _hook(args: argparse.Namespace) -> SegStatsHook:
    from airflow_provider_segstats.boundary import lookups
    from airflow_provider_segstats.hooks import SegStatsHook

    class Hook(SegStatsHook):
        """Looks connections up as Airflow's own commands do: in its database, too."""

        log: Any = _Log()  # Airflow's would get into standard output

        def connection(self) -> Any:
            """Return the connection, None where there is none."""
            if f"AIRFLOW_CONN_{self.segstats_conn_id.upper()}" in os.environ:  # without any database
                return lookups.connection(self.segstats_conn_id)
            from airflow.models.connection import Connection  # the database's; the SDK's knows of tasks only

            from airflow_provider_segstats.boundary.versions import AirflowNotFoundException

            with suppress(AirflowNotFoundException):
                return Connection.get_connection_from_secrets(self.segstats_conn_id)
            return None

    return Hook(args.conn_id)


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as text in columns, under their names."""
    lines = [["id", "name", "ui_tags", "groups"]]
    for row in rows:
        cells = (", ".join(value) if isinstance(value, list) else str(value) for value in row.values())
        lines.append([" ".join(cell.split()) for cell in cells])
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, wide)).rstrip() for line in lines)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fail(line: str) -> NoReturn:
    _say(line)
    raise SystemExit(1)
