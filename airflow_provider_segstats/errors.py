"""Every error that the package raises, for tasks of your own to catch; :mod:`.core.errors` has their tree."""

from __future__ import annotations

from airflow_provider_segstats.core.errors import (
    AmbiguousSubmitError,
    ApiError,
    AwayError,
    CertificateError,
    ConfigurationError,
    ExecutionTimeoutError,
    HttpStatusError,
    NoAnswerError,
    NotSentError,
    PartialFailureError,
    RedirectError,
    ReplyError,
    SegStatsError,
    TaskError,
    TaskFailedError,
    TransportError,
    UnreadableRowError,
    WaitTimeoutError,
    error_from_dict,
)

__all__ = [
    "AmbiguousSubmitError",
    "ApiError",
    "AwayError",
    "CertificateError",
    "ConfigurationError",
    "ExecutionTimeoutError",
    "HttpStatusError",
    "NoAnswerError",
    "NotSentError",
    "PartialFailureError",
    "RedirectError",
    "ReplyError",
    "SegStatsError",
    "TaskError",
    "TaskFailedError",
    "TransportError",
    "UnreadableRowError",
    "WaitTimeoutError",
    "error_from_dict",
]
