"""What the parts of scripts/bench share: how a result looks, the server, and measured processes."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import ssl
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from local_airflow.leash import Leashed

HERE = Path(__file__).resolve().parent
MODULES = {**os.environ, "PYTHONPATH": str(HERE.parent)}  # where a measured process finds this folder
TOKEN = "benched-t0ken"  # noqa: S105 - of the bench's own server
# One for the client that is measured, another for all else.
CLIENT_CORE, SERVER_CORE = (min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0)))


class BenchError(Exception):
    """A measurement that did not come about; the message is fit to show."""


@dataclass(frozen=True)
class Target:
    """A row of the target table: what was measured against what was asked for."""

    what: str
    measured: float
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass(frozen=True)
class Panel:
    """A picture of the chart: a bar for each of ``bars``, or a line for each of ``lines``: {x: y}."""

    title: str
    unit: str
    ours: Sequence[str]
    bars: Mapping[str, float] = field(default_factory=dict)
    lines: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    across: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a part found: tables (the first row of each its heading), a note, targets, a picture."""

    title: str
    tables: Sequence[Sequence[Sequence[str]]]
    note: str
    targets: Sequence[Target] = ()
    panel: Panel | None = None


def say(what: str, found: Mapping[str, float]) -> None:
    """Show one measurement as it comes: a run of all takes long, and may be cut short."""
    print(
        f"  {what}:", *(f"{name} {value:,.4g}" for name, value in found.items()), file=sys.stderr, flush=True
    )


def spread(values: Sequence[float], form: str = ".0f") -> str:
    """Return ``median (least to most)``."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Stage:
    """A running server and what a client needs to reach it."""

    folder: Path
    url: str
    certificate: Path

    @property
    def connections(self) -> dict[str, str]:
        """Environment variables: a connection for us and for each peer, and one CA for all."""
        host = self.url.removeprefix("https://")
        connections: dict[str, dict[str, Any]] = {
            "segstats_default": {
                "conn_type": "segstats",
                "host": self.url,
                "password": TOKEN,
                "extra": {"verify": str(self.certificate)},
            },
            "http_default": {"conn_type": "http", "host": self.url},
            "dbt_cloud_default": {"conn_type": "dbt_cloud", "host": host, "password": TOKEN, "login": "1"},
            "airbyte_default": {"conn_type": "airbyte", "host": f"{self.url}/v1"},
        }
        return {
            # One certificate where the peers' default is a bundle of a hundred and more: quicker for them.
            "SSL_CERT_FILE": str(self.certificate),
            "REQUESTS_CA_BUNDLE": str(self.certificate),
            **{
                f"AIRFLOW_CONN_{name.upper()}": json.dumps(connection)
                for name, connection in connections.items()
            },
        }

    @property
    def env(self) -> dict[str, str]:
        """The environment of a measured process."""
        return {
            **MODULES,
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__FERNET_KEY": "A" * 43 + "=",  # 32 zero bytes: what they hide is no secret
            **self.connections,
        }

    def ask(self, path: str) -> dict[str, Any]:
        """Ask the server: ``wave`` starts one; ``stats`` tells what it counted."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        with urllib.request.urlopen(f"{self.url}/{path}", context=context) as reply:  # noqa: S310 - our own
            found: dict[str, Any] = json.load(reply)
            return found

    def run(self, program: str, *arguments: str, seconds: float = 3600) -> Any:
        """Run a module of this folder, on the client's core; return the JSON that it ends with."""
        out = self.folder / f"{program}.json"
        out.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"benchmarks.{program}", str(out), *arguments]
        process = Leashed(command, env=self.env, log=self.folder / f"{program}.log")
        try:
            deadline = time.monotonic() + seconds
            while process.status is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if process.status != 0 or not out.exists():
                raise BenchError(f"{program} did not come to its end:\n{process.tail(30)}")
        finally:
            process.stop()
        return json.loads(out.read_text())


@contextlib.contextmanager
def stage(
    folder: Path, *, delay: float = 0.0, seconds: float = 0.0, bodies: Path | None = None
) -> Iterator[Stage]:
    """Run the server, ``delay`` seconds slow to answer, its tasks done after so many ``seconds``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "airflow").mkdir(exist_ok=True)
    certificate = folder / "server.pem"
    if not certificate.exists():
        certificate.write_bytes(_certificate())
    command = [sys.executable, "-m", "benchmarks.server", "--certificate", str(certificate)]
    command += ["--delay", str(delay), "--seconds", str(seconds), "--core", str(SERVER_CORE)]
    if bodies:
        command += ["--bodies", str(bodies)]
    log = folder / "server.log"
    log.unlink(missing_ok=True)
    server = Leashed(command, env=MODULES, log=log)
    try:
        deadline = time.monotonic() + 30
        while not (port := re.search(r"port (\d+)", server.tail())):
            if server.status is not None or time.monotonic() > deadline:
                raise BenchError(f"the server did not start:\n{server.tail()}")
            time.sleep(0.05)
        yield Stage(folder, f"https://localhost:{port[1]}", certificate)
    finally:
        server.stop()


def _certificate() -> bytes:
    """Return a certificate for this machine that vouches for itself, and its key, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())  # whose handshakes are the cheapest
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scripts/bench")])
    now = datetime.now(tz=timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    uses = "content_commitment key_encipherment data_encipherment key_agreement crl_sign encipher_only"
    unused = dict.fromkeys((*uses.split(), "decipher_only"), False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **unused), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write_result(path: str, result: Any) -> None:
    """Leave a measured program's result for :meth:`Stage.run`."""
    Path(path).write_text(json.dumps(result))


def become_client() -> None:
    """Pin this process to the client's core, and log as the subprocess of a triggerer does."""
    from airflow.sdk.log import configure_logging, reset_logging

    os.sched_setaffinity(0, {CLIENT_CORE})
    reset_logging()
    log = os.fdopen(os.dup(1), "wb", buffering=0)
    configure_logging(json_output=True, output=log, sending_to_supervisor=True)
