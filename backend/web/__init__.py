"""Everything that answers over HTTP: ML backend, dashboard, status and metrics."""
