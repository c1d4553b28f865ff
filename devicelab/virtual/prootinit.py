"""``python -m devicelab.virtual.prootinit TASK``: a proot phone's first process, outside proot and the filter.

It starts proot under the filter of :mod:`devicelab.virtual.seccomp`, supervises what the phone binds, and keeps
its processes together (:mod:`devicelab.virtual.family`) until its standard input ends. The task is a JSON
object: ``socket`` (where adbd shall be reached), ``port`` (what adbd wants to bind), ``command`` and
``environment``.

With ``try`` as the task it only tries out whether the kernel plays along, and says why if it does not.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from devicelab.virtual import family, kernel
from devicelab.virtual.ownpython import hear_signals, module_command, module_environment
from devicelab.virtual.seccomp import Supervisor, install_filter
from devicelab.virtual.unixsocket import bind_at

__all__ = ["main", "start_filtered"]


def start_filtered(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, int]:
    """Start a program under the filter.

    Called in a process with one thread.

    Returns:
        Its process id, and the file descriptor for its :class:`Supervisor`.

    Raises:
        OSError: The kernel refuses the filter, or the program cannot be executed; nothing runs then.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        _become(theirs, command, environment)
    theirs.close()
    with ours:
        said, fds, _, _ = socket.recv_fds(ours, 1024, 1)
        if fds:
            said = ours.recv(1024)  # the other end is closed by a successful exec
    if said or not fds:
        for fd in fds:
            os.close(fd)
        os.waitpid(child, 0)
        raise OSError(said.decode("utf-8", "replace") or "a child process died")
    return child, fds[0]


def _become(channel: socket.socket, command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """In the forked child: put on the filter, hand over its descriptor, execute."""
    try:
        fd = install_filter()
        socket.send_fds(channel, [b"filter"], [fd])
        os.close(fd)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.setsid()
        hear_signals()
        os.execve(command[0], list(command), dict(environment))  # noqa: S606 (no shell wanted)
    except OSError as error:
        channel.send(f"{error.filename or command[0]}: {error.strerror}".encode())
    finally:
        os._exit(1)


def main(argument: str) -> int:
    """Run the phone; the exit code is proot's, or 0 when the keeper has let go."""
    if argument == "try":
        return _try()
    if argument == "tried":
        return _tried()
    task = json.loads(argument)
    kernel.adopt_orphans()
    door = bind_at(Path(task["socket"]))
    try:
        child, fd = start_filtered(task["command"], task["environment"])
    except OSError as error:
        sys.stderr.write(f"cannot confine the phone without namespaces: {error}\n")
        return 1
    supervisor = Supervisor(fd, door, task["port"])
    # It ends with the last process under the filter, and tend() does not return before that.
    threading.Thread(target=supervisor.serve, name="supervisor", daemon=True).start()
    return family.tend(child)


def _try() -> int:
    """Do with a small program of ours what will be done with proot."""
    with socket.socket(socket.AF_UNIX) as door:
        try:
            command = [*module_command("devicelab.virtual.prootinit"), "tried"]
            child, fd = start_filtered(command, module_environment())
        except OSError as error:
            sys.stdout.write(f"{error}\n")
            return 1
        Supervisor(fd, door, port=1).serve()
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _tried() -> int:
    """Under the filter: whether it does what it shall, and proot could trace."""
    try:
        with socket.socket() as sock:
            sock.bind(("", 0))
            sock.listen()
            if sock.getsockname()[0] != "127.0.0.1":
                raise OSError(f"bound to {sock.getsockname()[0]} in spite of the filter")
        kernel.trace_me()
    except OSError as error:
        sys.stdout.write(f"bind, listen and ptrace under the filter: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
