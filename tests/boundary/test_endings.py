"""What a task raises for each error: Airflow's own exceptions, or the error itself where retries apply."""

from __future__ import annotations

import traceback

import pytest

from airflow_provider_segstats.boundary.endings import airflow_error
from airflow_provider_segstats.boundary.versions import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)
from airflow_provider_segstats.core import errors as e

ERROR = None  # the error itself, so that Airflow's retries apply
FAIL, SKIP = AirflowFailException, AirflowSkipException
SENSOR_TIMEOUT, TASK_TIMEOUT = AirflowSensorTimeout, AirflowTaskTimeout

# (error, raised, raised with soft_fail)
TABLE = [
    (e.ConfigurationError("x"), FAIL, SKIP),
    (e.CertificateError("x"), FAIL, SKIP),
    (e.RedirectError("x"), FAIL, SKIP),
    (e.HttpStatusError("x", http_status=404), FAIL, SKIP),
    (e.ApiError("x", code=400), FAIL, SKIP),
    (e.ApiError("x", code=401), FAIL, SKIP),
    (e.ApiError("x", code=402), FAIL, SKIP),
    (e.ApiError("x", code=403), FAIL, SKIP),
    (e.ApiError("x", code=440, permanent=True), FAIL, SKIP),
    (e.AmbiguousSubmitError("x"), FAIL, SKIP),
    (e.SegStatsError("x"), ERROR, ERROR),
    (e.TransportError("x"), ERROR, ERROR),
    (e.NotSentError("x"), ERROR, ERROR),
    (e.NoAnswerError("x"), ERROR, ERROR),
    (e.ReplyError("x"), ERROR, ERROR),
    (e.HttpStatusError("x", http_status=429), ERROR, ERROR),
    (e.HttpStatusError("x", http_status=503), ERROR, ERROR),
    (e.ApiError("x", code=440), ERROR, ERROR),
    (e.TaskFailedError("x"), ERROR, ERROR),
    (e.WaitTimeoutError("x"), SENSOR_TIMEOUT, SKIP),
    (e.ExecutionTimeoutError("x"), TASK_TIMEOUT, SKIP),
]


@pytest.mark.parametrize("failed_task_is_permanent", [False, True])
@pytest.mark.parametrize(("error", "hard", "soft"), TABLE, ids=repr)
def test_each_error_becomes_what_airflow_means_by_it(
    error: e.SegStatsError,
    hard: type[Exception] | None,
    soft: type[Exception] | None,
    failed_task_is_permanent: bool,
) -> None:
    if failed_task_is_permanent and isinstance(error, e.TaskFailedError):
        hard, soft = FAIL, SKIP
    error.connection, error.endpoint = "c", "tasks/status"
    for soft_fail, wanted in ((False, hard), (True, soft)):
        raised = airflow_error(error, soft_fail=soft_fail, failed_task_is_permanent=failed_task_is_permanent)
        assert str(raised) == "connection 'c', tasks/status: x"
        if wanted is None:
            assert raised is error
            assert not isinstance(raised, AirflowException)
        else:
            assert type(raised) is wanted


def test_a_tasks_log_shows_no_frame_below_the_line() -> None:
    def library() -> None:
        raise ConnectionRefusedError("refused")

    try:
        try:
            library()
        except ConnectionRefusedError as cause:
            raise e.NotSentError("could not connect") from cause
    except e.NotSentError as error:
        caught = error
    with pytest.raises(e.NotSentError) as raised:
        raise airflow_error(caught) from None
    shown = "".join(traceback.format_exception(raised.value))
    assert "library" not in shown
    assert shown.endswith("NotSentError: could not connect\n")
