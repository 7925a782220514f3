"""Block Label Studio's database with a second client until PostgreSQL cancels a request."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from backend.base.errors import DatabaseError
from backend.labelstudio.project_setup import ProjectSetup
from scripts.local.folder import StackFolder
from scripts.local.programs import postgres_server
from tests.integration.conftest import Stack
from tests.integration.labelstudio.annotating import guess, import_images, new_task

TRIES = 20
# Locks the row of one task, waits until Label Studio needs it, and then requests the row that Label
# Studio has locked. PostgreSQL cancels the request of the client that notices the deadlock first:
# Label Studio looks for deadlocks after one second, this client after ten.
BLOCK = """
BEGIN;
SET LOCAL deadlock_timeout = '10s';
SELECT id FROM task WHERE id = {second} FOR UPDATE;
DO $$ BEGIN
    FOR n IN 1..3000 LOOP
        EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted);
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
SELECT id FROM task WHERE id = {first} FOR UPDATE;
ROLLBACK;
"""


def test_a_deadlock_is_explained_and_the_import_has_added_nothing(
    stack: Stack, project: ProjectSetup
) -> None:
    first, second = import_images(project, new_task("a"), new_task("b")).values()
    guesses = {first: guess(0.1), second: guess(0.2)}
    error = None
    for _ in range(TRIES):
        with blocked(stack, BLOCK.format(first=first, second=second)):
            try:
                project.import_predictions(guesses)
            except DatabaseError as found:
                error = found
                break
        project.delete_predictions("r0001")  # this client noticed the deadlock first
    assert error is not None
    assert error.status == 500
    assert "changes blocked each other in its database" in str(error)
    assert "Process" not in str(error)
    assert project.model_versions() == []
    assert project.import_predictions(guesses) == 2


@contextmanager
def blocked(stack: Stack, script: str) -> Iterator[None]:
    """Run a script once its first query has locked a row; wait at the end until it has finished."""
    psql = postgres_server(stack.folder / "postgres").bin_path / "psql"
    sockets = StackFolder(stack.folder).sockets / "postgres"
    command = [str(psql), "-h", str(sockets), "-U", "postgres", "-qtA", "postgres"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(script)
        client.stdin.close()
        assert client.stdout.readline().strip()  # the id of the locked row
        yield
