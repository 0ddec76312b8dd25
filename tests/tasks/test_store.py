"""Airflow's task_state_store while its API server is away, as Airflow tells a task."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_provider_segstats.tasks.store import PatientStore


class Store:
    """A task_state_store that fails so many times with an HTTP status, or without an answer at all."""

    def __init__(self, failures: int, status: int | None) -> None:
        self.values: dict[str, Any] = {}
        self.calls = 0
        self._failures = failures
        self._status = status

    def set(self, key: str, value: Any) -> None:
        self.calls += 1
        if self.calls <= self._failures:
            detail = {"status_code": self._status, "message": "Connection refused"}
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))
        self.values[key] = value


@pytest.mark.parametrize("status", [None, 503])
def test_a_value_is_kept_once_the_api_server_is_back(status: int | None) -> None:
    store = Store(failures=2, status=status)
    PatientStore(store).set("key", "value")
    assert store.values == {"key": "value"}


def test_a_try_that_is_not_the_current_one_any_more_gives_up_at_once() -> None:
    store = Store(failures=1, status=404)
    with pytest.raises(AirflowRuntimeError):
        PatientStore(store).set("key", "value")
    assert store.calls == 1
