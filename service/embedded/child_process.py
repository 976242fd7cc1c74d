"""Child processes that do not outlive their parent, however it ends.

On Linux the kernel sends the child a signal when its parent dies (prctl(2), PR_SET_PDEATHSIG); on other
systems only an orderly stop ends it. Three properties of that call shape this module:

* A change of credentials clears the setting, so the child must drop its privileges first and then arm it.
  This file, run as a script, does both and then becomes the command; Popen's own `user=` with a `preexec_fn`
  would fork a threaded process.
* "Parent" is the thread that forked, not the process. A thread of our own forks and then waits for as long as
  the child runs.
* A parent that died before the call sends nothing, so the child compares its parent's id after it.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1


class Account(NamedTuple):
    """The system user a child runs as."""

    name: str
    uid: int
    gid: int


def start(
    command: Sequence[str],
    *,
    output: int,
    environment: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    account: Account | None = None,
    keep_open: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command` (absolute path first) in a session of its own: Ctrl-C in the terminal reaches only us.

    Both its output streams go to the descriptor `output`; the descriptors in `keep_open` stay open in it under
    the same numbers. `environment` replaces ours, and must hold no secret: for a moment the list of processes
    shows it. With an `account` it runs as that user, which only root can ask for. When this process dies the
    child gets `death_signal`. Raises OSError when this Python cannot be started again; a command that cannot be
    started ends with 127 and says why in its output.
    """
    # A new environment travels as an argument: this Python itself may need ours, such as LD_LIBRARY_PATH.
    task = json.dumps([os.getpid(), int(death_signal), account and account[1:], environment and dict(environment)])
    leash = [sys.executable, "-I", "-S", __file__, task]
    started: Future[subprocess.Popen[bytes]] = Future()

    def keep() -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the caller's own command, no shell
                [*leash, *command],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=keep_open,
                start_new_session=True,
            )
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(process)
            process.wait()

    threading.Thread(target=keep, name=f"leash of {Path(command[0]).name}", daemon=True).start()
    return started.result()


def _become(task: str, command: list[str]) -> None:
    """Drop privileges where asked, arm the parent-death signal, and become the command."""
    parent, death_signal, identity, environment = json.loads(task)
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    if identity:
        uid, gid = identity
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        return
    os.execve(command[0], command, os.environ if environment is None else environment)  # noqa: S606 - as above


if __name__ == "__main__":
    try:
        _become(sys.argv[1], sys.argv[2:])
    except OSError as problem:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"cannot start {sys.argv[2]}: {problem.strerror}\n")
    sys.exit(127)
