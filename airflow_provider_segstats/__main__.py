"""``python -m airflow_provider_segstats``: see :mod:`~airflow_provider_segstats.cli`."""

from airflow_provider_segstats.cli import main

main()
