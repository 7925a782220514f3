"""Back up everything in a compose stack that cannot be regenerated, or restore a backup.

    python3 -m scripts.backup                              # into the folder backups
    python3 -m scripts.backup --restore backups/stack.tar  # into a stack that was never started

The file contains Label Studio's database and files, the model versions, and .env with the secrets
that the database needs. Images and weights are left out, because they can be downloaded again.
Needs only the standard library.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from backend.base.command_line import CommandParser, run
from scripts.compose.backup import back_up, restore
from scripts.compose.docker import DockerError


def main() -> int:
    """Back up or restore the stack."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("backups"), help="default: backups"
    )
    parser.add_argument("--restore", type=Path, metavar="FILE", help="restore from this file")
    arguments = parser.parse_args()
    os.umask(0o077)  # the file contains secrets, images and labels
    try:
        if arguments.restore:
            restore(arguments.restore)
            print("restored; to start the stack: docker compose up -d")
        else:
            print(f"{back_up(arguments.folder)}: contains secrets; keep it safe")
    except (OSError, tarfile.TarError) as error:
        raise DockerError(str(error)) from error
    return 0


if __name__ == "__main__":
    run(main)
