"""Manage the stack in Docker: its .env file, checks before it starts, and backups."""
