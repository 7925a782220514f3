"""The stack in Docker: its .env file, the checks before it starts, and its backups."""
