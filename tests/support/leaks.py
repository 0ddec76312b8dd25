"""Looks for secrets in all that an Airflow keeps: its database, its logs, whatever lies in its home."""

from __future__ import annotations

import base64
import configparser
import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import NullPool, create_engine, inspect, text

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
    url = config.get("database", "sql_alchemy_conn", fallback=f"sqlite:///{home / 'airflow.db'}")
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        for table in inspect(connection).get_table_names():
            for row in connection.execute(text(f'select * from "{table}"')).mappings():  # noqa: S608 - its own name
                for name, value in row.items():
                    data = as_bytes(value)
                    yield f"{table}.{name}", data
                    if fernet and data.startswith(b"gAAAA"):
                        with suppress(InvalidToken):
                            yield f"{table}.{name}", fernet.decrypt(data)


def as_bytes(value: Any) -> bytes:
    if isinstance(value, dict | list):  # a column of JSON
        value = json.dumps(value)
    return bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()


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
