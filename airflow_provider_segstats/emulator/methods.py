"""What each of the API's methods answers. Where the specification is silent that is a guess; each says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow_provider_segstats.core.codec import XML
from airflow_provider_segstats.emulator.platform import Token
from airflow_provider_segstats.emulator.tasks import DAY, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_provider_segstats.core.codec import Codec
    from airflow_provider_segstats.emulator.platform import Database, Named, Resource, Segment
    from airflow_provider_segstats.emulator.state import Entry, State

N = TypeVar("N", bound="Named")

LISTS: Final = ("ui_tags", "groups", "groups_id")
"""The parameters that are lists."""

_PAGE: Final = 1000


class ApiError(Exception):
    """An error the API answers with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class Call:
    """A request as far as it could be read; `problem` is what kept it from being read to the end."""

    method: str
    endpoint: str
    reply: Codec
    from_text: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)
    authorization: str = ""
    problem: str | None = None
    holder: Token = field(default_factory=lambda: Token(token=""))

    def value(self, name: str) -> Any:
        """Return the parameter, None if it is missing, null or empty."""
        value = self.params.get(name)
        return None if value == "" else value

    def number(self, name: str, *, least: int = 1) -> int | None:
        """Return the parameter as an int (XML has only text), or refuse it with the API's error 400."""
        value = self.value(name)
        if self.from_text and isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:20])
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise ApiError(400, f"Incorrect request: {name} must be a positive integer")
        return value

    def required(self, name: str) -> int:
        """Return the parameter as an int, or refuse its absence, too."""
        if (value := self.number(name)) is None:
            raise ApiError(400, f"Incorrect request: {name} is required")
        return value

    def texts(self, name: str) -> set[str]:
        """Return a list of texts or numbers as texts; empty if it is missing."""
        value = self.value(name)
        if not isinstance(value, list | None):
            raise ApiError(400, f"Incorrect request: {name} must be a list")
        return {str(item) for item in value or [] if item is not None}

    def token(self) -> tuple[str | None, str | None]:
        """Return the token and where it came; the body's counts if there are two."""
        if isinstance(token := self.value("token"), str):
            return token, "body"
        scheme, _, token = self.authorization.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip(), "header"
        return None, None


class Methods:
    """The API's methods by their paths, over one state."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.by_path: Mapping[str, Callable[[Call, Entry], dict[str, Any]]] = {
            "segments/refresh_counters": self._refresh_segment,
            "databases/refresh_counters": self._refresh_database,
            "resources/refresh_counters": self._refresh_resource,
            "tasks/status": self._task_status,
            "segments/list": self._list_segments,
            "segments/get": self._get_segment,
            "segments/get_counters": self._get_counters,
            "databases/list": self._list_databases,
            "databases/get": self._get_database,
            "resources/get": self._get_resource,
        }

    # What an id that nobody knows gets, or one of a database that a dynamic segment's rules do not name, is
    # documented nowhere: an incorrect request is a guess. That a token's rights may end in a 403 is not.

    def _segment(self, call: Call) -> Segment:
        segment_id = call.required("id")
        segment = self._state.platform.segment(segment_id)
        return _visible(call, segment, f"segment {segment_id}")

    def _database(self, call: Call, name: str) -> Database:
        database_id = call.required(name)
        return _visible(call, self._state.platform.database(database_id), f"database {database_id}")

    def _resource(self, call: Call, name: str) -> Resource:
        resource_id = call.required(name)
        return _visible(call, self._state.platform.resource(resource_id), f"resource {resource_id}")

    def _counted(self, call: Call) -> tuple[Segment, Resource, int | None]:
        """Return the segment that is to be counted, for which resource and in which database."""
        segment = self._segment(call)
        resource = self._resource(call, "resource_id")
        if segment.resources and resource.id not in segment.resources:
            raise ApiError(400, f"Incorrect request: segment {segment.id} is not of that resource")
        db_id = call.number("db_id") or call.number("list_id")  # as newer servers call it
        if not segment.static and db_id is None:
            raise ApiError(400, "Incorrect request: db_id is required for a dynamic segment")
        if not segment.static and db_id not in segment.databases:
            raise ApiError(400, f"Incorrect request: segment {segment.id} is not of database {db_id}")
        return segment, resource, db_id

    def _refresh_segment(self, call: Call, entry: Entry) -> dict[str, Any]:
        segment, resource, db_id = self._counted(call)
        return self._accept(call, entry, segment.id, resource, db_id)

    def _refresh_database(self, call: Call, entry: Entry) -> dict[str, Any]:
        database = self._database(call, "id")
        return self._accept(call, entry, None, self._resource(call, "resource_id"), database.id)

    def _refresh_resource(self, call: Call, entry: Entry) -> dict[str, Any]:
        resource = self._resource(call, "id")
        return self._accept(call, entry, None, resource, self._database(call, "list_id").id)

    def _accept(
        self, call: Call, entry: Entry, segment_id: int | None, resource: Resource, db_id: int | None
    ) -> dict[str, Any]:
        if segment_id is None and resource.databases and db_id not in resource.databases:
            raise ApiError(400, f"Incorrect request: resource {resource.id} is not of database {db_id}")
        task = self._state.accept(call.endpoint, segment_id, resource.id, db_id)
        entry.task_id, entry.accepted = task.task_id, True
        named = (task.outcome, task.name) != ("completed", None)
        if entry.fault is None and (named or task.changes):
            entry.fault = "task" if named else "counters"
        return {"data": {"task_id": task.task_id}}

    def _task_status(self, call: Call, entry: Entry) -> dict[str, Any]:
        task_id = call.value("task_id")
        if not isinstance(task_id, str):
            raise ApiError(400, "Incorrect request: task_id is required")
        entry.task_id = task_id[:200]
        task = self._state.task(task_id)
        if task is None:
            raise ApiError(404, "Task not found")  # a guess: the specification does not say
        return {"data": report(task, self._state.now(), self._state.platform)}

    def _list_segments(self, call: Call, _: Entry) -> dict[str, Any]:
        return self._list(call, self._state.platform.segments.values())

    def _list_databases(self, call: Call, _: Entry) -> dict[str, Any]:
        return self._list(call, self._state.platform.databases.values())

    def _list(self, call: Call, things: Iterable[Segment | Database]) -> dict[str, Any]:
        if not call.holder.may_list:
            raise ApiError(403, "No access")
        tags, groups, ids = (call.texts(name) for name in LISTS)
        names = {group.id: group.name for group in self._state.platform.groups.values()}
        # Any of several tags, or groups, is a guess: no page says so.
        found = [
            thing
            for thing in things
            if call.holder.sees(thing)
            and (not tags or tags.intersection(thing.ui_tags))
            and (not groups or groups.intersection(names[group_id] for group_id in thing.groups))
            and (not ids or ids.intersection(map(str, thing.groups)))
        ]
        first, limit = call.number("from_id", least=0) or 0, min(call.number("limit") or _PAGE, _PAGE)
        page = [thing for thing in found if thing.id >= first][:limit]
        last = page[-1].id if page else first
        following = last + 1 if page and self._state.next_from_id == "beyond" else last
        items = [_item(thing, names, call.reply) for thing in page]
        return {"data": items, "next_from_id": following, "total_count": len(found)}

    def _get_segment(self, call: Call, _: Entry) -> dict[str, Any]:
        segment = self._segment(call)
        resource_id = next(iter((*segment.resources, *self._state.platform.resources)), 1)
        profiles = segment.counted(resource_id, "email", int(self._state.now() // DAY))
        # What a rule says is not ours to know; a static segment has none.
        rules = [
            {"list_id": database_id, "condition": "AND", "limit": 0, "queries": []}
            for database_id in ([] if segment.static else segment.databases)
        ]
        count = sum(profiles.values())
        return {"data": {"id": segment.id, "name": segment.name, "count": count, "segment": rules}}

    def _get_counters(self, call: Call, _: Entry) -> dict[str, Any]:
        segment, resource, db_id = self._counted(call)
        last = self._state.last_done(segment.id, resource.id, db_id)
        if last is not None:
            [entry, *_] = report(last, self._state.now(), self._state.platform)["result"]
            return {"data": entry["channels"]}
        # Nobody asked for a count: the platform made one itself, the night before.
        day = int(self._state.now() // DAY) - 1
        return {
            "data": [
                {"channel": channel, "status": segment.counted(resource.id, channel, day)}
                for channel in resource.channels
            ]
        }

    def _get_database(self, call: Call, _: Entry) -> dict[str, Any]:
        database = self._database(call, "id")
        return {
            "data": {
                "id": database.id,
                "name": database.name,
                "suppress_id": database.suppress_id,
                "description": database.description,
            }
        }

    def _get_resource(self, call: Call, _: Entry) -> dict[str, Any]:
        resource = self._resource(call, "id")
        return {
            "data": {
                "id": resource.id,
                "name": resource.name,
                "channels": list(resource.channels),
                "dbs_ids": list(resource.databases),
                "url": resource.url,
                "trk_domain": resource.trk_domain,
            }
        }


def _visible(call: Call, thing: N | None, what: str) -> N:
    """Return the thing asked for, or refuse one that is not there or not for the token to see."""
    if thing is None:
        raise ApiError(400, f"Incorrect request: there is no {what}")
    if not call.holder.sees(thing):
        raise ApiError(403, f"No access to {what}")
    return thing


def _item(thing: Segment | Database, names: Mapping[int, str], reply: Codec) -> dict[str, Any]:
    """Return one line of a list, in the order and the spelling of the samples, which differ by format."""
    item = {"id": thing.id, "name": thing.name, "ui_tags": list(thing.ui_tags)}
    if reply is XML:
        return {"groups": [{"id": number, "name": names[number]} for number in thing.groups], **item}
    return {**item, "Groups": [{"Id": number, "Name": names[number]} for number in thing.groups]}
