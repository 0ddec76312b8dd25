"""Looks for secrets in all that an Airflow keeps: its database, its logs, whatever lies in its home."""

from __future__ import annotations

import base64
import configparser
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet, InvalidToken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

CORE = re.compile("[A-Za-z0-9]{12,}")


def needles(secret: str) -> list[bytes]:
    """Return bytes that show the secret, however it is encoded.

    Its longest run of letters and digits is the same in JSON, XML, a URL and a ``repr``; base64 of a text
    that holds it shows one of three others, by where in the text it begins.
    """
    core = max(CORE.findall(secret), key=len).encode()
    # Less what the neighbours share a character with.
    shifted = [base64.b64encode(b"x" * shift + core)[4 if shift else 0 : -4] for shift in range(3)]
    return [core, *shifted]


def database(home: Path) -> Iterator[tuple[str, bytes]]:
    """Yield ``table.column`` and the bytes of each value in an Airflow's database, decrypted if possible."""
    config = configparser.RawConfigParser()
    config.read(home / "airflow.cfg")
    key = config.get("core", "fernet_key", fallback="")
    fernet = Fernet(key.encode()) if key else None
    with closing(sqlite3.connect(f"file:{home / 'airflow.db'}?mode=ro", uri=True, timeout=30)) as connection:
        tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (table,) in tables:
            rows = connection.execute(f'select * from "{table}"')  # noqa: S608 - a name of the database's own
            names = [column[0] for column in rows.description]
            for row in rows:
                for name, value in zip(names, row, strict=True):
                    if isinstance(value, str | bytes):
                        data = value.encode() if isinstance(value, str) else value
                        yield f"{table}.{name}", data
                        if fernet and data.startswith(b"gAAAA"):
                            try:
                                yield f"{table}.{name}", fernet.decrypt(data)
                            except InvalidToken:
                                continue


def files(home: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the bytes of each file below a folder."""
    for path in home.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(home)), path.read_bytes()


def leaks(found: Iterable[tuple[str, bytes]], secrets: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return which secret shows where, as pairs of names."""
    wanted = {name: needles(secret) for name, secret in secrets.items()}
    return {
        (name, place)
        for place, data in found
        for name, shown in wanted.items()
        if any(needle in data for needle in shown)
    }
