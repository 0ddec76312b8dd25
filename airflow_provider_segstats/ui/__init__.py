"""The page "Segments" in Airflow's UI: what the history knows, what runs now, and who may see it."""
