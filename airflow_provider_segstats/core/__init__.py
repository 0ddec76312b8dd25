"""The segments API and the wait for a recount, in plain Python: nothing here imports Airflow."""
