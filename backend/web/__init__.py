"""Serve everything over HTTP: ML backend, dashboard, status and metrics."""
