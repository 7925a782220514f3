"""Manage the Docker stack: its .env file, the checks before it starts, and its backups."""
