"""A connection's fields as one checked value. Pure: Airflow's Connection is taken apart in ``hooks``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from string import whitespace
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

from airflow_provider_segstats.core.defaults import Format
from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.fields import EXTRAS

T = TypeVar("T")
TokenIn = Literal["body", "header"]

_DEFAULTS = {name: extra["schema"].get("default") for name, extra in EXTRAS.items()}
# Blanks, and what looks like nothing at all, around a text that was pasted.
_BLANKS = whitespace + "\u00a0\u200b\u200c\u200d\u2060\ufeff"
_QUOTES = frozenset({'""', "''", "``", "<>"})
_VERIFY: dict[str, bool] = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
    **dict.fromkeys(("none", "null"), True),  # not set
}
# http, also with a slash too few or many, or another scheme, or none before the slashes.
_SCHEME = re.compile(r"(https?)(?::[/\\]*|[/\\]{2,})|([a-z][a-z0-9+.-]*)://|:?//", re.IGNORECASE)
_NAME = re.compile(r"[\w.-]+")
_PATH = re.compile(r"[^\s?#\\:]*")
_METHOD = re.compile(
    r"/((segments|databases|resources)/(refresh_counters|get_counters|list|get)|tasks/status)/?$"
)
# A host with nothing to fill in, and no credentials, before a path that may have fields.
_LINK = re.compile(
    r"https?://[^\s{}/?#@]+([/?#]([^\s{}]|\{(segment_id|resource_id|db_id)\})*)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Settings:
    """Where the API is and how to talk to it. Hashable; ``repr`` shows no secret.

    ``base_url`` has scheme, host, port and path and no slash at its end; ``timeout`` is seconds for one
    whole request; ``verify`` is True, False or the path of a CA file. A task's statuses are lower case;
    ``refused_statuses`` are HTTP's. ``time_zone`` says which date a night has; ``segment_url`` is to be
    filled with ``str.format`` and the ids ``segment_id``, ``resource_id`` and ``db_id``.
    """

    base_url: str
    token: str = field(repr=False)
    account: str
    format: Format
    token_in: TokenIn
    verify: bool | str
    timeout: float
    proxy: str | None = field(repr=False)
    success_statuses: frozenset[str]
    failure_statuses: frozenset[str]
    refused_statuses: frozenset[int]
    unknown_task_codes: frozenset[int]
    requests_per_second: float | None
    time_zone: ZoneInfo
    segment_url: str | None

    def segment_link(self, **ids: int | None) -> str | None:
        """Return where people look at a segment, None without ``segment_url`` or an id that stands in it."""
        known = {name: str(number) for name, number in ids.items() if number is not None}
        try:
            return self.segment_url and self.segment_url.format(**known)
        except KeyError:
            return None

    @property
    def sends_token_in_clear(self) -> bool:
        """Whether the token crosses a network unencrypted: ``http`` to anything but this machine."""
        url = urlsplit(self.base_url)
        return url.scheme == "http" and not _is_loopback(url.hostname or "")

    @classmethod
    def from_fields(
        cls,
        *,
        host: str | None,
        port: int | None = None,
        schema: str | None = None,
        password: str | None = None,
        extra: str | Mapping[str, Any] | None = None,
        format: Format | None = None,  # noqa: A002 - the API's word
    ) -> Settings:
        """Return the settings that a connection's fields mean, or raise :class:`ConfigurationError`.

        ``extra`` is a mapping or its JSON text. Values may be text, as the URI form of a connection
        gives them; an empty text counts as not set. ``format`` overrides the one in ``extra``.
        """
        options = _options(extra)
        token = (password or "").strip(_BLANKS)
        base_url, name = _base_url(host, port, schema, _base_path(options), token)
        if not token:
            raise ConfigurationError("the connection has no password; put the API token there")
        token_in = _choice(options, "token_in", get_args(TokenIn))
        if token_in == "header" and not (token.isascii() and token.isprintable()):  # noqa: S105
            raise ConfigurationError("a token with such characters cannot be a header; use token_in 'body'")
        success_statuses = _statuses(options, "success_statuses")
        failure_statuses = _statuses(options, "failure_statuses")
        if not success_statuses:
            raise ConfigurationError("extra success_statuses must name at least one status")
        if both := success_statuses & failure_statuses:
            raise ConfigurationError(
                f"{', '.join(sorted(both))} cannot stand in both success_statuses and failure_statuses"
            )
        return cls(
            base_url=base_url,
            token=token,
            account=_text(options, "account") or name,
            format=format or _choice(options, "format", get_args(Format)),
            token_in=token_in,
            verify=_verify(options),
            timeout=_positive(options["timeout"], "timeout"),
            proxy=_proxy(options),
            success_statuses=success_statuses,
            failure_statuses=failure_statuses,
            refused_statuses=_numbers(options, "refused_statuses", range(400, 600)),
            unknown_task_codes=_numbers(options, "unknown_task_codes"),
            requests_per_second=_rate(options),
            time_zone=_time_zone(options),
            segment_url=_segment_url(options),
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _options(extra: str | Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(extra, str):
        try:
            extra = json.loads(extra) if extra.strip() else {}
        except ValueError:
            raise ConfigurationError("the connection's extra is not JSON") from None
    if not isinstance(extra, Mapping | None):
        raise ConfigurationError("the connection's extra is not a JSON object")
    unknown = sorted(str(name) for name in extra or {} if name not in EXTRAS)
    if unknown:
        raise ConfigurationError(f"unknown extra {', '.join(unknown)}; known are {', '.join(EXTRAS)}")
    given = {name: value for name, value in (extra or {}).items() if not _is_blank(value)}
    return _DEFAULTS | given


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not _pasted(value))


def _pasted(text: str) -> str:
    """Return a text without the blanks and quotes that come with it where it was pasted."""
    text = text.strip(_BLANKS)
    while len(text) > 1 and text[0] + text[-1] in _QUOTES:
        text = text[1:-1].strip(_BLANKS)
    return text


def _base_url(
    host: str | None, port: int | None, schema: str | None, base_path: str, token: str
) -> tuple[str, str]:
    """Return the API's URL and the host's name."""
    host, schema = _pasted(host or ""), _pasted(schema or "").lower().rstrip(":/")
    if not host:
        raise ConfigurationError("the connection has no host")
    schemes, rest = _split_schemes(host)
    if not {"@", "?", "#"}.isdisjoint(rest):  # what is left out here may be secret
        raise ConfigurationError("the connection's host may hold scheme, name, port and path only")
    parts = _split_host(rest)
    if not parts:
        shown = host.replace(token, "***") if token else host
        raise ConfigurationError(f"the connection's host is neither a name nor a URL: {shown!r:.200}")
    name, url_port, path = parts
    if len(schemes) > 1:
        raise ConfigurationError(f"the connection's host says {' and '.join(sorted(schemes))}")
    scheme = _agreed("schema", next(iter(schemes), ""), schema) or "https"
    if scheme not in {"http", "https"}:
        raise ConfigurationError(f"the connection's schema is {scheme!r}; it can be https or http")
    netloc = f"[{name}]" if ":" in name else name
    if port := _agreed("port", url_port, port):
        if port not in range(1, 65536):
            raise ConfigurationError(f"the connection's port is {port}; it can be 1 to 65535")
        netloc = f"{netloc}:{port}"
    prefix = _without_method(path)
    if prefix.endswith(base_path):  # the host was given with the API's path already
        base_path = ""
    return f"{scheme}://{netloc}{prefix}{base_path}", name


def _agreed(field: str, of_host: T, own: T) -> T:
    """Return what the host or a field of its own says, where they do not say different things."""
    if of_host and own and of_host != own:
        raise ConfigurationError(f"the connection's host says {field} {of_host}, its {field} {own}")
    return of_host or own


def _split_schemes(host: str) -> tuple[set[str], str]:
    """Return the schemes that a host begins with, also several or with a slash too few, and the rest."""
    schemes = set()
    while found := _SCHEME.match(host):
        schemes |= {scheme.lower() for scheme in found.groups() if scheme}
        host = host[found.end() :]
    return schemes, host


def _split_host(text: str) -> tuple[str, int | None, str] | None:
    """Return name, port and path of a host without its scheme; None if it is none."""
    try:
        if ip_address(text).version == 6:  # without brackets, as the URI form of a connection gives it
            return text, None, ""
    except ValueError:
        pass
    try:
        url = urlsplit(f"//{text}")
        name, port = url.hostname or "", url.port
        name.encode("idna")  # raises for what no resolver takes, such as an empty label
    except ValueError:
        return None
    if not (":" in name or _NAME.fullmatch(name)) or " " in text or not text.isprintable():
        return None
    return name, port, url.path


def _base_path(options: Mapping[str, Any]) -> str:
    path = _text(options, "base_path")
    if not _PATH.fullmatch(path):
        raise ConfigurationError(f"extra base_path must be a path such as /api/v1.1, not {path!r:.200}")
    return _without_method("/" + path)


def _without_method(path: str) -> str:
    """Return a path without the API's method, where it has one, and without needless slashes."""
    return _METHOD.sub("", re.sub("/+", "/", path)).rstrip("/")


def _text(options: Mapping[str, Any], name: str) -> str:
    value = options[name]
    if not isinstance(value, str | None):
        raise ConfigurationError(f"extra {name} must be text")
    return _pasted(value or "")


def _choice(options: Mapping[str, Any], name: str, choices: tuple[Any, ...]) -> Any:
    value = _text(options, name).lower()
    if value not in choices:
        raise ConfigurationError(f"extra {name} can be {' or '.join(choices)}")
    return value


def _rate(options: Mapping[str, Any]) -> float | None:
    value = options["requests_per_second"]
    return None if value is None else _positive(value, "requests_per_second")


def _positive(value: Any, name: str) -> float:
    try:
        text = _pasted(value) if isinstance(value, str) else value
        number = math.nan if isinstance(value, bool) else float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigurationError(f"extra {name} must be a number above 0")
    return number


def _verify(options: Mapping[str, Any]) -> bool | str:
    value = options["verify"]
    if isinstance(value, str):
        return _VERIFY.get(_pasted(value).lower(), _pasted(value))
    if value not in (0, 1):  # which true and false are, too
        raise ConfigurationError("extra verify can be true, false or the path of a CA file")
    return bool(value)


def _proxy(options: Mapping[str, Any]) -> str | None:
    proxy = _text(options, "proxy")
    if not proxy:
        return None
    if not usable_proxy(proxy):  # never quote it: it may hold a password
        raise ConfigurationError("extra proxy must be a URL such as http://user:password@proxy:3128")
    return proxy


def usable_proxy(proxy: str) -> bool:
    """Return whether both HTTP clients can use a proxy's URL, and read it alike."""
    try:
        url = urlsplit(proxy)
        _ = url.port  # raises when it is no number
        (url.hostname or "").encode("idna")
        user, password = unquote(url.username or ""), unquote(url.password or "")
        f"{user}:{password}".encode("latin-1")  # as both write them, for want of a better agreement
    except ValueError:
        return False
    return (
        url.scheme in {"http", "https"}
        and bool(url.hostname)
        and ":" not in user
        and not any(map(str.isspace, proxy))
    )


def _items(options: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list option; text is taken as comma-separated, as the connection form gives it."""
    value = options[name]
    if isinstance(value, str):
        value = [_pasted(item) for item in _pasted(value).strip("[]").split(",") if _pasted(item)]
    elif isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list):
        raise ConfigurationError(f"extra {name} must be a list")
    return value


def _statuses(options: Mapping[str, Any], name: str) -> frozenset[str]:
    items = _items(options, name)
    statuses = frozenset(_pasted(item).lower() for item in items if isinstance(item, str))
    if len(statuses) != len(items):
        raise ConfigurationError(f"extra {name} must be different names")
    return statuses


def _numbers(options: Mapping[str, Any], name: str, bounds: range | None = None) -> frozenset[int]:
    items = _items(options, name)
    if not all(type(item) is int or (isinstance(item, str) and item.isdecimal()) for item in items):
        raise ConfigurationError(f"extra {name} must be whole numbers")
    numbers = frozenset(int(item) for item in items)
    if bounds and not all(number in bounds for number in numbers):
        raise ConfigurationError(f"extra {name} must be numbers from {bounds[0]} to {bounds[-1]}")
    return numbers


def _time_zone(options: Mapping[str, Any]) -> ZoneInfo:
    name = _text(options, "time_zone")
    try:
        return ZoneInfo(name)
    except (OSError, KeyError, ValueError):  # no such zone; a folder of zones; no name at all
        raise ConfigurationError(
            f"extra time_zone names no time zone: {name!r}; it takes IANA names such as Europe/Berlin"
        ) from None


def _segment_url(options: Mapping[str, Any]) -> str | None:
    pattern = _text(options, "segment_url")
    if not pattern:
        return None
    if not _LINK.fullmatch(pattern):
        raise ConfigurationError(
            "extra segment_url must be an http or https URL whose path has no braces but {segment_id}, "
            f"{{resource_id}} and {{db_id}}: {pattern!r:.200}"
        )
    return pattern
