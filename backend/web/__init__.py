"""What answers over HTTP: the ML backend, the dashboard, the status and the metrics."""
