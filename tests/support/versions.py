"""What the tests use of Airflow that has moved since 3.1."""

try:
    from airflow.sdk.exceptions import TaskDeferred
    from airflow.sdk.serde import deserialize, serialize
except ImportError:  # before 3.2
    from airflow.exceptions import TaskDeferred
    from airflow.serialization.serde import deserialize, serialize

__all__ = ["TaskDeferred", "deserialize", "serialize"]
