"""Find and stop the processes of a local stack."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil

from scripts.local.folder import StackError, StackFolder
from scripts.local.settings import MARK

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_S, KILL_AFTER_S = 60, 5


def processes(folder: StackFolder) -> list[psutil.Process]:
    """Return every live process of the stack, identified by a variable in its environment.

    Neither parent processes nor recorded pids are reliable: a training run outlives a killed
    worker, and after a crash the system may have given a pid to another program.
    """
    return [process for process in psutil.process_iter() if _belongs(process, folder)]


def _belongs(process: psutil.Process, folder: StackFolder) -> bool:
    with suppress(psutil.Error):  # the process has just ended, or belongs to another user
        return process.environ().get(MARK) == str(folder.path)
    return False


def is_running(folder: StackFolder) -> bool:
    """Return whether the stack became ready and has not been stopped since."""
    pid = folder.read().get("pids", {}).get("supervisord")
    return any(process.pid == pid for process in processes(folder))


def stop(folder: StackFolder) -> None:
    """Stop the programs in order, then all other processes; raise StackError if any remain.

    Ctrl-C is ignored until all processes have stopped.
    """
    print("\nstopping everything", flush=True)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    folder.update(pids={})
    # supervisord may have been killed, or may be unable to stop a program.
    with suppress(OSError, ValueError, psutil.Error):
        supervisord = psutil.Process(int((folder.sockets / "supervisord.pid").read_text()))
        if _belongs(supervisord, folder):
            supervisord.terminate()
            supervisord.wait(STOP_S)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        left = processes(folder)
        for process in left:
            with suppress(psutil.Error):
                end(process)
        psutil.wait_procs(left, KILL_AFTER_S)
    if left := processes(folder):
        raise StackError(f"cannot stop {', '.join(map(str, left))}")
    folder.remove_sockets_folder()
    folder.update(pids={})  # the event listener may have written pids in the meantime
    for number, handler in handlers.items():
        signal.signal(number, handler)
