"""The segments API (v1.1): each endpoint is one function that returns a :class:`Call`.

Pure: a call holds the whole request and knows how to read the reply; ``transport`` carries it. The
facts come from the API's pages, which each function names; what those leave open is read leniently and
said where it is.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
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
from airflow_provider_segstats.core.model import (
    ROW_LABELS,
    Channel,
    Counted,
    Database,
    DatabaseDetails,
    Entry,
    Group,
    ListedDatabase,
    ListedSegment,
    Page,
    Recountable,
    Resource,
    ResourceDetails,
    Segment,
    SegmentDetails,
    TaskStatus,
)
from airflow_provider_segstats.core.settings import Settings

T = TypeVar("T")

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,19}(\.0+)?")
_RESERVED_PARAMS = frozenset({"token", "id", "resource_id", "db_id", "format"})
_LARGEST_NUMBER = 10**19
_LONGEST_TEXT = 300  # of an error's reason
_LONGEST_NAME = 1000  # of a task id, a status, a channel or a counter: they are logged, and stored
_SHORT_BODY = 300
PAGE = 1000  # of a list: the API's own default
_SUCCESS = "Successful operation"
# Databases refuse to store these, so they are refused here, where it can still be said why.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Request:
    """One POST: the full URL, the headers and the body. ``repr`` shows neither of the latter.

    ``once``: the server acts anew each time it comes, so that it is not sent where it may have come before.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    once: bool = False


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


def refresh_counters(settings: Settings, what: Recountable) -> Call[str]:
    """Return the call that starts a recount; its result is the remote task's id, an opaque string.

    API pages: "Update statistics on segment", ``POST segments/refresh_counters``, and its sisters
    ``databases/refresh_counters`` and ``resources/refresh_counters``. Whether a repeated call is idempotent
    is not documented: it starts another recount.
    """
    params: dict[str, Any] = {}
    match what:
        case Segment():
            params = {} if what.db_id is None else {"db_id": what.db_id}
            params |= {"resource_id": what.resource_id}
        case Database():
            params = {"resource_id": what.resource_id}
        case Resource():
            params = {"list_id": what.list_id}
    params |= {"id": what.id}
    _check_extra(what.extra_params, params)
    params |= {"format": settings.format, **what.extra_params}
    return _call(settings, what.endpoint, _read_task_id, params, once=True)


def task_status(settings: Settings, task_id: str) -> Call[TaskStatus]:
    """Return the call that asks how a task is; its result is a :class:`TaskStatus`.

    API page: "Checking the task status", ``POST tasks/status``. Of the statuses only ``completed``
    is documented, in older pages ``success``. ``format`` is not: the server answers as it was asked.
    """
    return _call(
        settings, "tasks/status", _read_task_status, {"task_id": task_id}, lists=("result", "channels")
    )


def list_segments(
    settings: Settings,
    from_id: int | None = None,
    *,
    ui_tags: Sequence[str] = (),
    groups: Sequence[str] = (),
    groups_id: Sequence[int] = (),
    limit: int = PAGE,
) -> Call[Page[ListedSegment]]:
    """Return the call for a page of the segments that the token sees, all or those so marked.

    API page: "Segments list", ``POST segments/list/``. Whether several tags, or groups, mean any or all of
    them is not documented.
    """
    marks = {"ui_tags": list(ui_tags), "groups": list(groups), "groups_id": list(groups_id)}
    asked = {"from_id": from_id, "limit": limit, **marks}
    return _list_call(settings, "segments/list/", _read_segments, asked)


def list_databases(
    settings: Settings, from_id: int | None = None, *, limit: int = PAGE
) -> Call[Page[ListedDatabase]]:
    """Return the call for a page of the databases that the token sees: ``POST databases/list/``."""
    return _list_call(settings, "databases/list/", _read_databases, {"from_id": from_id, "limit": limit})


def get_segment(settings: Settings, segment_id: int) -> Call[SegmentDetails]:
    """Return the call for a segment's name, size and databases: ``POST segments/get/``."""
    params = {"id": segment_id, "format": settings.format}
    return _call(settings, "segments/get/", _read_segment, params, lists=("segment", "queries"))


def get_counters(settings: Settings, segment: Segment) -> Call[Counted]:
    """Return the call for a segment's counters as last counted: ``POST segments/get_counters``.

    A dynamic segment's database goes by both its names, ``list_id`` and the older pages' ``db_id``.
    """
    params: dict[str, Any] = {"id": segment.segment_id, "resource_id": segment.resource_id}
    if segment.db_id is not None:
        params |= {"list_id": segment.db_id, "db_id": segment.db_id}
    _check_extra(segment.extra_params, params)
    params |= {"format": settings.format, **segment.extra_params}
    return _call(settings, "segments/get_counters", _read_counted, params, lists=("data",))


def get_database(settings: Settings, database_id: int) -> Call[DatabaseDetails]:
    """Return the call for a database's name: ``POST databases/get/``."""
    params = {"id": database_id, "format": settings.format}
    return _call(settings, "databases/get/", _read_database, params)


def get_resource(settings: Settings, resource_id: int) -> Call[ResourceDetails]:
    """Return the call for a resource's name, channels and databases: ``POST resources/get``."""
    params = {"id": resource_id, "format": settings.format}
    return _call(settings, "resources/get", _read_resource, params, lists=("channels", "dbs_ids"))


def _check_extra(extra_params: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    if clash := sorted(extra_params.keys() & (_RESERVED_PARAMS | params.keys())):
        raise ConfigurationError(f"extra_params may not set {', '.join(clash)}")


def _list_call(
    settings: Settings, endpoint: str, read: _Read[Page[T]], asked: Mapping[str, Any]
) -> Call[Page[T]]:
    params = {name: value for name, value in asked.items() if value} | {"format": settings.format}
    return _call(settings, endpoint, read, params, lists=("data", "ui_tags", "groups", "Groups"))


_Read = Callable[[dict[str, Any], Settings], T]
"""Turns a message into a result, as the connection's settings mean it; keeps the token out of both."""


def _call(
    settings: Settings,
    endpoint: str,
    read: _Read[T],
    params: dict[str, Any],
    lists: tuple[str, ...] = (),
    *,
    once: bool = False,
) -> Call[T]:
    """Return a call; ``lists`` names the lists in its answer, which XML's elements alone do not tell."""
    if settings.token_in == "body":  # noqa: S105 - a place, no token
        params = {"token": settings.token, **params}
    url, headers = _address(settings, endpoint)
    request = Request(url, headers, CODECS[settings.format].dumps(params), once)
    endpoint = endpoint.rstrip("/")  # as people know it
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


def _read_segments(message: dict[str, Any], _settings: Settings) -> Page[ListedSegment]:
    return _page(message, ListedSegment)


def _read_databases(message: dict[str, Any], _settings: Settings) -> Page[ListedDatabase]:
    return _page(message, ListedDatabase)


def _page(message: dict[str, Any], kind: Callable[..., T]) -> Page[T]:
    things: dict[int, T] = {}
    for item in _list(message.get("data"), "data"):
        fields = _folded(item)
        groups = [_folded(group) for group in _list(fields.get("groups"), "groups")]
        thing_id = _id(fields)
        thing = kind(
            thing_id,
            _free_text(fields, "name"),
            tuple(_scalar_text(tag) for tag in _list(fields.get("ui_tags"), "ui_tags")),
            tuple(Group(_id(group), _free_text(group, "name")) for group in groups),
        )
        things.setdefault(thing_id, thing)
    return Page(things, _int(message, "next_from_id"), _int(message, "total_count"))


def _folded(item: Any) -> dict[str, Any]:
    """Return a list's item with its fields' names in lower case: the samples have both kinds."""
    if not isinstance(item, dict):
        raise ReplyError("the answer's list holds something that is no object")
    return {name.lower(): value for name, value in item.items()}


def _read_segment(message: dict[str, Any], _settings: Settings) -> SegmentDetails:
    data = _mapping(message, "data")
    rules = [_folded(rule) for rule in _list(data.get("segment"), "segment")]
    list_ids = dict.fromkeys(list_id for rule in rules if (list_id := _int(rule, "list_id")))
    return SegmentDetails(_id(data), _free_text(data, "name"), _int(data, "count"), tuple(list_ids))


def _read_counted(message: dict[str, Any], settings: Settings) -> Counted:
    channels = _list(message.get("data"), "data")
    return Counted(tuple(_channel(channel) for channel in channels), settings.account)


def _read_database(message: dict[str, Any], _settings: Settings) -> DatabaseDetails:
    data = _mapping(message, "data")
    return DatabaseDetails(
        database_id=_id(data),
        name=_free_text(data, "name"),
        suppress_id=_int(data, "suppress_id"),
        description=_free_text(data, "description"),
    )


def _read_resource(message: dict[str, Any], _settings: Settings) -> ResourceDetails:
    data = _mapping(message, "data")
    return ResourceDetails(
        resource_id=_id(data),
        name=_free_text(data, "name"),
        channels=tuple(_scalar_text(channel) for channel in _list(data.get("channels"), "channels")),
        database_ids=tuple(_id({"id": item}) for item in _list(data.get("dbs_ids"), "dbs_ids")),
        url=_free_text(data, "url"),
        trk_domain=_free_text(data, "trk_domain"),
    )


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


def _id(message: Mapping[str, Any]) -> int:
    if (value := _int(message, "id")) is None:
        raise ReplyError("the answer says success and has no id")
    return value


def _free_text(message: Mapping[str, Any], name: str) -> str:
    """Return what people typed: in one line, and cut where it is endless."""
    return _UNSTORABLE.sub(" ", _scalar_text(message.get(name)))[:_LONGEST_NAME].strip()


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
