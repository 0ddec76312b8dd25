"""Where this package meets Airflow: its Connections and Variables as they are, our errors as its own."""
