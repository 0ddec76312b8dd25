"""Every error of the package, as one tree.

::

    SegStatsError
    ├── ConfigurationError        P   the connection or an argument cannot be used
    │   └── UnreadableRowError    P   a row is no observation for the history, others may be
    ├── AwayError                     Airflow's own API server, or a secrets backend, could not be asked
    ├── TransportError                no whole answer came back
    │   ├── NotSentError              the request never reached the server: safe to repeat
    │   ├── NoAnswerError             it was sent, and no whole answer came: the server may have acted
    │   └── CertificateError      P   the server's certificate cannot be trusted
    ├── ReplyError                    an answer came that is not one of the API's
    │   ├── RedirectError         P   the server points elsewhere; redirects are never followed
    │   └── HttpStatusError       p   an HTTP error without an API body; permanent for 4xx but 429
    ├── ApiError                  p   the API said no; permanent for its codes 400 to 403
    ├── AmbiguousSubmitError      P   a recount may have been accepted and its task id is not known
    ├── PartialFailureError       p   some of many segments were not counted; permanent if all causes are
    └── TaskError                     about the recount itself, not about asking for it
        ├── TaskFailedError           it failed at the server
        └── WaitTimeoutError          it was not done when ``timeout`` ended
            └── ExecutionTimeoutError     … or when ``execution_timeout`` ended

``P`` is permanent (trying the same again cannot help), ``p`` depends on the code, the rest is worth
another try. ``error.permanent`` tells. Nothing here knows Airflow: ``boundary.endings`` translates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_DETAILS = (
    "connection",
    "endpoint",
    "http_status",
    "code",
    "text",
    "retry_after",
    "permanent",
    "task_id",
    "status",
    "progress",
)


class SegStatsError(Exception):
    """Something went wrong between here and the segments API.

    ``str(error)`` is one line that never holds the token. What is known stands in attributes, ``None``
    where it does not apply: ``connection`` (Airflow connection id), ``endpoint`` (such as
    ``tasks/status``), ``http_status``, ``code`` and ``text`` (the API's ``error`` and ``error_text``),
    ``retry_after`` (seconds the server asked for), ``permanent``, ``task_id`` (the remote one), ``status``
    and ``progress`` (as the remote task last showed them). ``refused`` is True of a submit that the server
    did not accept, for now: it is away or too busy.
    """

    permanent: bool = False
    refused: bool = False
    in_a_row: int = 1
    """How many requests in a row have failed as this is the latest of, of all that share a server."""

    def __init__(
        self,
        message: str,
        *,
        connection: str | None = None,
        endpoint: str | None = None,
        http_status: int | None = None,
        code: int | None = None,
        text: str | None = None,
        retry_after: float | None = None,
        permanent: bool | None = None,
        task_id: str | None = None,
        status: str | None = None,
        progress: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.connection = connection
        self.endpoint = endpoint
        self.http_status = http_status
        self.code = code
        self.text = text
        self.retry_after = retry_after
        if permanent is not None:
            self.permanent = permanent
        self.task_id = task_id
        self.status = status
        self.progress = progress

    def __str__(self) -> str:
        where = [f"connection '{self.connection}'"] if self.connection else []
        where += [self.endpoint] if self.endpoint else []
        return f"{', '.join(where)}: {self.message}" if where else self.message

    @property
    def unauthorized(self) -> bool:
        """Whether the token was not accepted: a rotated one may be."""
        return self.code == 401 or (self.code is None and self.http_status == 401)

    def to_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON, for a trigger's event; :func:`error_from_dict` reads it."""
        details = {name: getattr(self, name) for name in _DETAILS if getattr(self, name) is not None}
        return {"kind": type(self).__name__, "message": self.message, **details}


class ConfigurationError(SegStatsError, ValueError):
    """The connection or an argument cannot be used; the message says which and what to do."""

    permanent = True


class UnreadableRowError(ConfigurationError):
    """A row of the platform's that is no observation, for one of its values; other rows are not concerned."""


class AwayError(SegStatsError):
    """Airflow's own API server, or a secrets backend, could not be asked for what a task needs.

    No submit had left by then.
    """

    refused = True


class TransportError(SegStatsError):
    """No whole answer came back."""


class NotSentError(TransportError):
    """The request never reached the server (refused, name not found, no connection in time)."""

    refused = True


class NoAnswerError(TransportError):
    """The request was sent and no whole answer came (timeout, reset, truncated).

    ``odd``: one came that breaks the rules of HTTP, so that aiohttp does not read it; a worker's client may.
    """

    odd: bool = False


class CertificateError(TransportError):
    """The server's TLS certificate cannot be trusted."""

    permanent = True


class ReplyError(SegStatsError):
    """An answer came that is not one of the API's: HTML, broken JSON or XML, a missing field."""


class RedirectError(ReplyError):
    """The server points elsewhere. A followed POST can lose its body or carry the token to another host."""

    permanent = True


class HttpStatusError(ReplyError):
    """An HTTP error status whose body is not the API's. Every 4xx but 429 is permanent."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        status = self.http_status or 0
        self.permanent = 400 <= status < 500 and status != 429


class ApiError(SegStatsError):
    """The API answered with a non-zero ``error``; see ``code`` and ``text``.

    Documented codes, all permanent: 400 incorrect request, 401 API token required, 402 tariff limit
    reached, 403 no access. The table is open: any other code may occur, and is permanent only as the
    answer to a submit, unless it is among the connection's ``refused_statuses``.
    """

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        if details.get("permanent") is None:
            self.permanent = 400 <= (self.code or 0) <= 403


class AmbiguousSubmitError(SegStatsError):
    """The server may have accepted a recount, and nobody knows its task id."""

    permanent = True


class PartialFailureError(SegStatsError):
    """Some segments of a task that refreshes many were not counted; the rest were.

    ``errors`` tells by segment id what went wrong, ``not_submitted`` the ids of those never sent.
    """

    def __init__(
        self,
        message: str,
        *,
        errors: Mapping[int, SegStatsError] | None = None,
        not_submitted: Sequence[int] = (),
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.errors = dict(errors or {})
        self.not_submitted = list(not_submitted)

    def to_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON, with the error of each segment under its id."""
        errors = {str(segment_id): error.to_dict() for segment_id, error in self.errors.items()}
        return {**super().to_dict(), "errors": errors, "not_submitted": self.not_submitted}


class TaskError(SegStatsError):
    """About the remote task: ``task_id``, ``status`` and ``progress`` tell how it was last seen."""


class TaskFailedError(TaskError):
    """The recount failed at the server."""


class WaitTimeoutError(TaskError):
    """The recount was not done when ``timeout`` ended. It may still be running: the API has no cancel."""


class ExecutionTimeoutError(WaitTimeoutError):
    """The recount was not done when ``execution_timeout`` ended."""


_KINDS: dict[str, type[SegStatsError]] = {
    kind.__name__: kind
    for kind in (
        ConfigurationError,
        UnreadableRowError,
        AwayError,
        TransportError,
        NotSentError,
        NoAnswerError,
        CertificateError,
        ReplyError,
        RedirectError,
        HttpStatusError,
        ApiError,
        AmbiguousSubmitError,
        PartialFailureError,
        TaskFailedError,
        WaitTimeoutError,
        ExecutionTimeoutError,
    )
}


def error_from_dict(data: dict[str, Any]) -> SegStatsError:
    """Return the error that :meth:`SegStatsError.to_dict` wrote, also by another release.

    A kind nobody knows becomes a plain :class:`SegStatsError`; unknown details are left out.
    """
    kind = _KINDS.get(str(data.get("kind")), SegStatsError)
    details: dict[str, Any] = {name: data[name] for name in _DETAILS if name in data}
    if kind is PartialFailureError:
        errors = data.get("errors", {})
        details["errors"] = {int(segment_id): error_from_dict(error) for segment_id, error in errors.items()}
        details["not_submitted"] = data.get("not_submitted", ())
    return kind(str(data.get("message", "unknown error")), **details)
