"""The segments API (v1.1): each endpoint is one function that returns a :class:`Call`.

Pure: a call holds the whole request and knows how to read the reply; ``transport`` carries it. The
facts come from the API's pages "Update statistics on segment" and "Checking the task status"; what
those leave open is read leniently and said where it is.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from airflow_provider_segstats import __version__
from airflow_provider_segstats.core.codec import CODECS, read_message
from airflow_provider_segstats.core.errors import (
    ApiError,
    ConfigurationError,
    HttpStatusError,
    RedirectError,
    ReplyError,
    SegStatsError,
)
from airflow_provider_segstats.core.model import ROW_LABELS, Channel, Entry, Segment, TaskStatus
from airflow_provider_segstats.core.settings import Settings

T = TypeVar("T")

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,19}(\.0+)?")
_RESERVED_PARAMS = frozenset({"token", "id", "resource_id", "db_id", "format"})
_LARGEST_NUMBER = 10**19
_LONGEST_TEXT = 300  # of an error's reason
_LONGEST_NAME = 1000  # of a task id, a status, a channel or a counter: they are logged, and stored
_SHORT_BODY = 300
_SUCCESS = "Successful operation"
# Databases refuse to store these, so they are refused here, where it can still be said why.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Request:
    """One POST: the full URL, the headers and the body. ``repr`` shows neither of the latter."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the HTTP status, the headers by lower-case name, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and how to read its reply.

    ``read`` returns the typed result or raises :class:`ApiError`, :class:`HttpStatusError`,
    :class:`RedirectError` or :class:`ReplyError`, each with the endpoint's name in it.
    """

    endpoint: str
    request: Request
    read: Callable[[Reply], T] = field(repr=False)  # it knows the token, to keep it out of errors


def refresh_counters(settings: Settings, segment: Segment) -> Call[str]:
    """Return the call that starts a recount; its result is the remote task's id, an opaque string.

    API page: "Update statistics on segment", ``POST segments/refresh_counters``. Whether a repeated
    call is idempotent is not documented: it starts another recount.
    """
    clash = sorted(_RESERVED_PARAMS.intersection(segment.extra_params))
    if clash:
        raise ConfigurationError(f"extra_params may not set {', '.join(clash)}")
    params: dict[str, Any] = {}
    if segment.db_id is not None:
        params["db_id"] = segment.db_id
    params |= {"resource_id": segment.resource_id, "id": segment.segment_id, "format": settings.format}
    return _call(settings, "segments/refresh_counters", _read_task_id, {**params, **segment.extra_params})


def task_status(settings: Settings, task_id: str) -> Call[TaskStatus]:
    """Return the call that asks how a task is; its result is a :class:`TaskStatus`.

    API page: "Checking the task status", ``POST tasks/status``. Of the statuses only ``completed``
    is documented, in older pages ``success``. ``format`` is not: the server answers as it was asked.
    """
    return _call(
        settings, "tasks/status", _read_task_status, {"task_id": task_id}, lists=("result", "channels")
    )


def list_databases(settings: Settings) -> Call[None]:
    """Return a cheap read that proves the token: ``POST databases/list``, one database at most."""
    return _call(settings, "databases/list", _read_nothing, {"limit": 1, "format": settings.format})


_Read = Callable[[dict[str, Any], Settings], T]
"""Turns a message into a result, as the connection's settings mean it; keeps the token out of both."""


def _call(
    settings: Settings, endpoint: str, read: _Read[T], params: dict[str, Any], lists: tuple[str, ...] = ()
) -> Call[T]:
    """Return a call; ``lists`` names the lists in its answer, which XML's elements alone do not tell."""
    if settings.token_in == "body":  # noqa: S105 - a place, no token
        params = {"token": settings.token, **params}
    url, headers = _address(settings, endpoint)
    request = Request(url, headers, CODECS[settings.format].dumps(params))
    return Call(endpoint, request, partial(_read, endpoint, settings, read, lists))


@lru_cache(maxsize=64)
def _address(settings: Settings, endpoint: str) -> tuple[str, Mapping[str, str]]:
    """Return the URL and the headers, which thousands of waits share."""
    mimetype = CODECS[settings.format].mimetype
    headers = {
        "Content-Type": mimetype,
        "Accept": mimetype,
        "Accept-Encoding": "identity",  # what is unpacked here must be bounded here: `transport.unpacked`
        "User-Agent": f"airflow-provider-segstats/{__version__}",
    }
    if settings.token_in == "header":  # noqa: S105
        headers["Authorization"] = f"Bearer {settings.token}"
    return f"{settings.base_url}/{endpoint}", headers


def _read(endpoint: str, settings: Settings, read: _Read[T], lists: tuple[str, ...], reply: Reply) -> T:
    try:
        if reply.status == 200 and len(reply.body) <= _SHORT_BODY:
            found: T = _read_short(read, lists, settings, reply.headers.get("content-type"), reply.body)
            return found
        return read(_message(reply, settings.token, lists), settings)
    except SegStatsError as error:
        error.endpoint = endpoint
        error.http_status = reply.status
        error.retry_after = _retry_after(reply)
        raise


@lru_cache(maxsize=256)
def _read_short(
    read: _Read[Any], lists: tuple[str, ...], settings: Settings, content_type: str | None, body: bytes
) -> Any:
    """Return what a short answer means. Those of running tasks are much the same, thousands a minute."""
    reply = Reply(200, {"content-type": content_type or ""}, body)
    return read(_message(reply, settings.token, lists), settings)


def _message(reply: Reply, token: str, lists: tuple[str, ...]) -> dict[str, Any]:
    """Return the API's message, or raise what it says.

    The body comes first: HTTP 200 can carry an error, and an HTTP error a body of the API.
    """
    if 300 <= reply.status < 400:
        target = _one_line(reply.headers.get("location", "an unnamed place"), token)
        raise RedirectError(f"HTTP {reply.status} points to {target}; set the connection's host to it")
    try:
        message = read_message(reply.headers.get("content-type"), reply.body, lists)
        code = _int(message, "error") or 0
    except ReplyError:
        if 200 <= reply.status < 300:
            raise
        raise _http_error(reply, "without an answer of the API") from None
    if code:
        text = _one_line(_scalar_text(message.get("error_text")), token)
        raise ApiError(f"API error {code}: {text or 'no text given'}", code=code, text=text)
    if not 200 <= reply.status < 300:
        raise _http_error(reply, "without an API error")
    return message


def _http_error(reply: Reply, what: str) -> HttpStatusError:
    return HttpStatusError(f"HTTP {reply.status} {what}", http_status=reply.status)


def _read_nothing(_message: dict[str, Any], _settings: Settings) -> None:
    """Read nothing of a message that says success."""


def _read_task_id(message: dict[str, Any], _settings: Settings) -> str:
    task_id = _text(_mapping(message, "data"), "task_id")
    if not task_id:
        raise ReplyError("the answer says success and has no task_id")
    return task_id


def _read_task_status(message: dict[str, Any], settings: Settings) -> TaskStatus:
    data, token = _mapping(message, "data"), settings.token
    status = _text(data, "status")
    succeeded = status.lower() in settings.success_statuses
    if not succeeded:  # a name of success may have a short token in it
        status = _without(token, status)
    if not status:
        raise ReplyError("the answer has no status")
    try:
        progress = _int(data, "progress")
    except ReplyError:  # only shown, never decided upon
        progress = None
    result = data.get("result")
    if isinstance(result, dict):  # in XML one entry and an object look the same
        result = [result]
    # Whether a task that still runs has a result, and of what kind, is not documented.
    entries = _list(result, "result") if succeeded else []
    # Where a failed task's reason stands is not documented either; the message's own text is about the
    # answer, and so mostly that of a success.
    reason = data.get("error_text") or message.get("error_text")
    text = "" if reason == _SUCCESS else _one_line(_scalar_text(reason), token)
    return TaskStatus(status, progress, tuple(_entry(entry) for entry in entries), text, settings.account)


def _entry(entry: Any) -> Entry:
    if not isinstance(entry, dict) or "channels" not in entry:
        raise ReplyError("the result is not a list of counters")
    return Entry(
        channels=tuple(_channel(channel) for channel in _list(entry["channels"], "channels")),
        in_progress=_bool(entry, "in_progress"),
        list_id=_int(entry, "list_id"),
        resource_id=_int(entry, "resource_id"),
        updated=_text(entry, "updated"),
    )


def _channel(channel: Any) -> Channel:
    if not isinstance(channel, dict):
        raise ReplyError("a channel of the result is not an object")
    counters = _mapping(channel, "status")
    for name in counters:
        _check_name(name, "a counter's name")
    if clash := sorted(ROW_LABELS.intersection(counters)):
        raise ReplyError(f"a counter of the result is named like a column of the rows: {', '.join(clash)}")
    # Not by its name: the server could have put anything there, the token too.
    numbers = {name: _int(counters, name, called="counter") for name in counters}
    return Channel(_text(channel, "channel"), numbers)


# Values are read by the field's name, never by their looks: in XML all are text, and a channel may be
# called "007" or "true". An empty XML element and a JSON null are the same nothing.


def _mapping(message: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = message.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ReplyError(f"the answer's {name} is not an object")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ReplyError(f"the answer's {name} is not a list")
    return [item for item in value if item is not None]


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if isinstance(value, (dict, list)):
        raise ReplyError(f"the answer's {name} is not text")
    text = _scalar_text(value)
    _check_name(text, f"the answer's {name}")
    return text


def _check_name(text: str, what: str) -> None:
    if len(text) > _LONGEST_NAME:
        raise ReplyError(f"{what} is longer than {_LONGEST_NAME} characters")
    if _UNSTORABLE.search(text):
        raise ReplyError(f"{what} holds control characters")


def _scalar_text(value: Any) -> str:
    if value is None or isinstance(value, (dict, list)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()


def _int(message: Mapping[str, Any], name: str, called: str | None = None) -> int | None:
    value = message.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER:
        return value
    if isinstance(value, (float, str)) and _WHOLE_NUMBER.fullmatch(str(value).strip()):
        return int(str(value).strip().partition(".")[0])
    raise ReplyError(f"the answer's {called or name} is not a whole number")


def _bool(message: Mapping[str, Any], name: str) -> bool:
    value = message.get(name)
    if isinstance(value, bool):
        return value
    text = _scalar_text(value).lower()
    if text not in {"", "true", "false"}:
        raise ReplyError(f"the answer's {name} is neither true nor false")
    return text == "true"


def _one_line(text: str, token: str) -> str:
    """Return server-sent text fit for a message: no token, one line, not endless."""
    line = " ".join(_UNSTORABLE.sub(" ", _without(token, text)).split())
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"


def _without(token: str, text: str) -> str:
    """Return server-sent text without the token, however the server encoded it there."""
    return _echo_of(token).sub("***", text)


@lru_cache(maxsize=64)
def _echo_of(token: str) -> re.Pattern[str]:
    """Return what finds a token as it is, or as JSON, XML, a URL or a ``repr`` would have it."""

    def forms(char: str) -> set[str]:
        if char.isascii() and char.isalnum():
            return {char}
        by_number = {f"&#{ord(char)};", f"&#x{ord(char):x};"}
        named = {html.escape(char), "&apos;" if char == "'" else char, "+" if char == " " else char}
        escaped = {json.dumps(char)[1:-1], f"\\{char}", quote(char, safe="", errors="replace")}
        return by_number | named | escaped

    pattern = "".join(f"(?:{'|'.join(map(re.escape, forms(char)))})" for char in token)
    return re.compile(pattern, re.IGNORECASE)  # hexadecimal digits come in both cases


def _retry_after(reply: Reply) -> float | None:
    """Return the seconds Retry-After asks for, None when it is absent or unreadable.

    A date is taken against the reply's own Date, so the two clocks need not agree.
    """
    value = reply.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until - parsedate_to_datetime(reply.headers.get("date", ""))).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
