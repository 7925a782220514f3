"""Provide what every package uses: settings, errors, logs, progress and shared data types."""
