"""Child processes that end when their parent ends, even if the parent is killed.

On Linux the kernel sends the child a signal when its parent dies (prctl(2), PR_SET_PDEATHSIG). On other systems only an
orderly stop ends it. Three properties of that call shape this module:

* A change of credentials clears the setting, so the child must drop its privileges first and then set the signal. This
  file, run as a script (the launcher), does both and then becomes the command. Popen's `user=` with a `preexec_fn` would
  run Python code in the fork of a process with threads.
* "Parent" is the thread that forked, not the process. So a dedicated thread forks and waits until the child ends.
* If the parent died before the call, the kernel sends nothing. So the launcher compares its parent's id afterwards.
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
    """A system user that a child runs as."""

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
    """Start `command` (absolute path first) in its own session, so that Ctrl-C in the terminal does not reach it.

    stdout and stderr go to the descriptor `output`. The descriptors in `keep_open` stay open under the same numbers.
    `environment` replaces this process's environment. It must contain no secret: the process list shows it briefly. With
    an `account`, which only root can use, the command runs as that user. When this process dies the child gets
    `death_signal`. Raises OSError if Python cannot be started. If the command cannot be started, the child exits with 127
    and writes the reason to `output`.
    """
    # Passed as an argument because the launcher's Python may need this process's variables, such as LD_LIBRARY_PATH.
    task = json.dumps([os.getpid(), int(death_signal), account and account[1:], environment and dict(environment)])
    launcher = [sys.executable, "-I", "-S", __file__, task]
    started: Future[subprocess.Popen[bytes]] = Future()

    def run() -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the caller's command, without a shell
                [*launcher, *command],
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

    threading.Thread(target=run, name=f"parent of {Path(command[0]).name}", daemon=True).start()
    return started.result()


def _become(task: str, command: list[str]) -> None:
    """Drop privileges if requested, set the parent-death signal, and become the command."""
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
    os.execve(command[0], command, os.environ if environment is None else environment)  # noqa: S606 - the caller's command, without a shell


if __name__ == "__main__":
    try:
        _become(sys.argv[1], sys.argv[2:])
    except OSError as problem:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"cannot start {sys.argv[2]}: {problem.strerror}\n")
    sys.exit(127)
