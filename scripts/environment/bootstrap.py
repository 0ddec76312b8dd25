"""The environment that scripts/ run in: made once, with nothing but Python, and renewed when it is stale.

Any `python3` starts this, so it must parse on Python 3.6 and import only the standard library: an old Python
is to be refused in a sentence, not by a syntax error.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from environment.progress import CLOCK, Progress

if TYPE_CHECKING:
    from typing import Callable

OLDEST = (3, 10)
TESTED = [(3, 13), (3, 12), (3, 11), (3, 10)]  # what constraints.txt is resolved for

ROOT = Path(__file__).resolve().parents[2]
# A variable, so that environments of several Pythons can lie side by side in one checkout.
VENV = ROOT / (os.environ.get("SEGSTATS_VENV") or ".venv")
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

THIS_PYTHON = "Python {}.{}.{} ({})".format(*sys.version_info[:3], sys.executable)

TOO_OLD = f"""\
Python 3.10 or newer is needed, this is {THIS_PYTHON}.
There is no usable python3.10, python3.11, python3.12 or python3.13 on PATH either."""

NO_VENV = """\
{python} cannot make virtual environments: its module {module} is missing.
Debian and Ubuntu package it apart: install python3-venv (or python3.{minor}-venv), then run this again."""

NO_INDEX = """\
pip could not reach the package index at {address}. Is there a network? Where packages come through
a mirror or a proxy, tell pip so (pip.conf, PIP_INDEX_URL, HTTPS_PROXY). Then run this again."""

PIP_FAILED = """\
pip could not install what pyproject.toml asks for. Its last lines:

{lines}"""


def enter() -> None:
    """Return inside an up-to-date environment; else see to it, then start this same command again in it."""
    for signum in INTERRUPTIONS:
        signal.signal(signum, _interrupted)
    inside = Path(sys.prefix).resolve() == VENV.resolve()
    if not inside and sys.version_info[:2] not in TESTED:
        _change_python()
    if not _is_usable():
        _make()
    if STAMP.read_text() != _wanted():
        _install()
    elif inside:
        os.environ.pop(CLOCK, None)  # what this command starts has a clock of its own
        return
    os.execve(PYTHON, [str(PYTHON), *sys.argv], _environment())


def _interrupted(number: int, _frame: object) -> None:
    """Leave by way of every clean-up, which a second Ctrl-C does not cut short."""
    for signum in INTERRUPTIONS:
        signal.signal(signum, signal.SIG_IGN)
    sys.exit(128 + number)


def _change_python() -> None:
    """Carry on in a tested Python if there is one; return, to use this one, only if it is newer."""
    for version in TESTED:
        path = shutil.which("python{}.{}".format(*version))
        # A name on PATH proves little: version managers leave stubs, Debian leaves ensurepip out.
        probe = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != {version})"
        if path and subprocess.call([path, "-c", probe], stderr=subprocess.DEVNULL) == 0:
            os.execv(path, [path, *sys.argv])
    if sys.version_info < OLDEST:
        sys.exit(TOO_OLD)
    print(f"Tested are Python 3.10 to 3.13; trying {THIS_PYTHON}.")


def _is_usable() -> bool:
    """Tell whether this script made the environment, for this Python, and it still runs."""
    # The upgrade or removal of a Python breaks the environments made from it.
    probe = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    try:
        return STAMP.exists() and subprocess.call([PYTHON, "-c", probe], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def _wanted() -> str:
    """Return what a complete installation is stamped with; the path, since an editable one points to it."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _make() -> None:
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            sys.exit(NO_VENV.format(python=THIS_PYTHON, module=module, minor=sys.version_info[1]))
    if VENV.exists() and not STAMP.exists():
        aside = VENV.with_name(VENV.name + ".aside")
        print(f"{VENV.name} was not made by this script, or not to its end: moved to {aside.name}.")
        shutil.rmtree(str(aside), ignore_errors=True)
        VENV.rename(aside)
    # The base, because this may be the very environment that is to go.
    base = getattr(sys, "_base_executable", sys.executable)
    with Progress() as progress:
        progress.show(f"making {VENV.name} with {THIS_PYTHON} …")
        failed, lines = _watch([base, "-m", "venv", "--clear", str(VENV)])
    if failed:
        sys.exit(f"{THIS_PYTHON} could not make {VENV}:\n\n{_last(lines)}")
    STAMP.write_text("")


def _install() -> None:
    STAMP.write_text("")  # what is cut off half-way must not pass for what was there before
    install = [str(PYTHON), "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
    install += ["--constraint", str(ROOT / "constraints.txt"), "--editable", f"{ROOT}[dev]"]
    with Progress() as progress:
        progress.say(f"Installing Airflow and the rest into {VENV.name}, a minute or two …")
        pip = _Pip(progress)
        failed, lines = _watch(install, pip.said)
        if not failed:
            progress.say("Installed.")
    if failed:
        sys.exit(_without_index(lines) or PIP_FAILED.format(lines=_last(lines)))
    STAMP.write_text(_wanted())


class _Pip:
    """Shows how far pip has come: by what it says while it finds packages, then by what it has installed."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began = time.time()
        self._found = 0
        pins = (ROOT / "constraints.txt").read_text().splitlines()
        self._pins = sum(not line.startswith("#") for line in pins)

    def said(self, line: str) -> None:
        """Take in a line of its output."""
        if line.startswith("Collecting "):
            self._found += 1
            self._progress.show("packages found", self._found, self._pins)
        elif line.startswith("Installing collected packages: "):
            self._progress.show("packages installed", self._installed, line.count(",") + 1)

    def _installed(self) -> int:
        count = 0
        for path in VENV.glob("lib/*/site-packages/*.dist-info"):
            with contextlib.suppress(FileNotFoundError):  # an older release is just being removed
                count += path.stat().st_mtime >= self._began
        return count


def _without_index(lines: "list[str]") -> "str | None":
    """Return what to say where pip found nothing because it reached nobody; None where that was not it."""
    said = "\n".join(lines)
    refused = re.search(r"connection broken by .*host='(.+?)', port=(\d+)", said)
    if not refused or "No matching distribution" not in said:
        return None
    return NO_INDEX.format(address=":".join(refused.groups()))


def _last(lines: "list[str]") -> str:
    return "\n".join("    " + line for line in lines[-12:])


def _watch(command: "list[str]", said: "Callable[[str], object]" = lambda _: None) -> "tuple[int, list[str]]":
    """Run a command, handing on its lines; return status and lines. Interrupted, leave nothing behind."""
    lines = []
    # A group of its own, since pip has children: an interruption ends the group.
    process = subprocess.Popen(
        command,
        cwd=str(ROOT),
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        start_new_session=True,
    )
    try:
        for line in process.stdout or ():
            lines.append(line.strip())
            said(lines[-1])
        return process.wait(), lines
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _environment() -> "dict[str, str]":
    """Return ours without what would let another Python's modules or another Airflow's settings in."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW_", "_AIRFLOW_")) and name not in ("PYTHONPATH", "PYTHONHOME")
    }
    environment["VIRTUAL_ENV"] = str(VENV)
    environment["PATH"] = str(VENV / "bin") + os.pathsep + environment.get("PATH", os.defpath)
    return environment
