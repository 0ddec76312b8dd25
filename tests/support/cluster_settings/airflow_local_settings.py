"""What Airflow's processes of the cluster test load at their start.

A task's process is a fork of the scheduler's: what is loaded there, none of hundreds has to load.
"""

import airflow_provider_segstats.core.client
import airflow_provider_segstats.operators
import airflow_provider_segstats.triggers  # noqa: F401

__all__ = ()  # nothing in here is a setting
