"""What a long command shows of itself, on a terminal and where lines stay."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.paths import ROOT
from support.terminal import on_terminal

PROGRAM = """
import sys, time
sys.path.insert(0, {scripts!r})
from environment.progress import Progress
with Progress(sign_of_life={sign_of_life}) as progress:
    {body}
"""


def program(body: str, sign_of_life: float = 60.0) -> list[str]:
    code = PROGRAM.format(scripts=str(ROOT / "scripts"), body=body, sign_of_life=sign_of_life)
    return [sys.executable, "-c", code]


def lines(body: str, sign_of_life: float = 60.0) -> list[str]:
    """Return what is printed where lines stay, without the clock."""
    command = program(body, sign_of_life)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [re.sub(r"^ *\d+ s  ", "", line) for line in done.stdout.splitlines()]


def test_what_goes_on_is_printed_when_it_is_something_else() -> None:
    body = "progress.show('a', 1, 2); progress.show('a', 2, 2); progress.show('b'); progress.say('c')"
    assert lines(body) == ["[########--------] 1 of 2 a", "b", "c"]


def test_where_nothing_changes_a_line_comes_all_the_same() -> None:
    body = """progress.show('a', lambda: 3, 4)
    time.sleep(2)"""
    printed = lines(body, sign_of_life=0.1)
    assert set(printed) == {"[############----] 3 of 4 a"}
    assert len(printed) > 1


def test_after_what_came_about_nothing_moves_until_something_else_goes_on() -> None:
    body = """progress.show('a'); progress.say('b')
    time.sleep(1)"""
    assert lines(body, sign_of_life=0.1) == ["a", "b"]


def test_more_than_all_is_shown_as_all() -> None:
    assert lines("progress.show('a', 9, 4)") == ["[################] 4 of 4 a"]


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_on_a_terminal_a_line_is_drawn_in_place_and_cut_to_fit(columns: int) -> None:
    _, printed = on_terminal(program("progress.show('x' * 100, 1, 2); progress.say('done')"), columns)
    assert "\n" not in printed.rstrip("\r\n")
    [line, rest] = [text for text in printed.split("\r\x1b[K") if text]
    assert len(line) == columns - 1
    assert line.endswith("\u2026")
    assert rest.endswith("s  done\r\n")


def test_on_a_terminal_the_line_moves_while_nothing_changes() -> None:
    body = """progress.show('a')
    time.sleep(2)"""
    _, printed = on_terminal(program(body, sign_of_life=0.1), 80)
    assert printed.count("s  a") > 1


def test_a_command_that_starts_itself_again_goes_on_with_its_clock() -> None:
    code = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT / "scripts")!r})
from environment.progress import BEGAN
print(BEGAN, flush=True)
if len(sys.argv) == 1:
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "again"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.split()
    assert first == second
