"""The stack in Docker: its .env file, what may stop it from starting, and its backups."""
