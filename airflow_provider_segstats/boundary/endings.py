"""The one place where the package's errors become Airflow's."""

from __future__ import annotations

from airflow_provider_segstats.boundary.versions import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)
from airflow_provider_segstats.core.errors import (
    ExecutionTimeoutError,
    SegStatsError,
    TaskFailedError,
    WaitTimeoutError,
)


def airflow_error(
    error: SegStatsError, *, soft_fail: bool = False, failed_task_is_permanent: bool = False
) -> BaseException:
    """Return what to raise in a task for ``error``; raise it ``from None``, it says all in one line.

    A permanent error ends the task without retries, timeouts end as Airflow's own do, and what is worth
    a retry stays as it is: no AirflowException, so that Airflow's retries apply in every mode.
    ``soft_fail`` turns the first two into a skip, as Airflow means it.
    """
    line = str(error)
    if isinstance(error, ExecutionTimeoutError):
        final: BaseException = AirflowTaskTimeout(line)
    elif isinstance(error, WaitTimeoutError):
        final = AirflowSensorTimeout(line)
    elif error.permanent or (failed_task_is_permanent and isinstance(error, TaskFailedError)):
        final = AirflowFailException(line)
    else:
        return error.with_traceback(None)  # which leads to where its line came from: nothing more to know
    return AirflowSkipException(line) if soft_fail else final
