"""Provide what every room needs: settings, errors, logs, progress, and shared data types."""
