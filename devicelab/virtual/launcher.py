"""Fork the keepers of some phones: ``python -m devicelab.virtual.launcher SOCKET,LOCK,DIRECTORY …``.

One interpreter starts and imports what little a keeper needs; every keeper is a fork of it, so that eight
phones take little longer than one and share most of their memory. Protocol:

* arguments: per phone the inherited descriptors of its port and its lock, and its directory, which holds
  ``spec.json``;
* stdout: one JSON line per phone: ``{"name": …}`` once it runs, or with ``"error"``, ``"hint"`` and ``"host"``
  (whether this host is to blame and not the phone), and one more with ``"error"`` when its keeper ends;
* stdin: one byte per phone once all of them run. If it ends before that, ``virtual up`` has failed or died,
  and every keeper ends itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from devicelab.errors import ConfigError, DevicelabError, describe_exit
from devicelab.files import host_error
from devicelab.virtual.keeper import Keeper
from devicelab.virtual.registry import sign
from devicelab.virtual.spec import PhoneSpec

__all__ = ["SPEC", "main"]

SPEC = "spec.json"
_WORDS = 300  # characters of an error or a hint: two of them fit into PIPE_BUF, however they are escaped


def main(arguments: Sequence[str]) -> None:
    """Fork all keepers and say which of them die, until ``virtual up`` has seen enough and ends us.

    The keepers are orphans then, on purpose.
    """
    phones = []
    for argument in arguments:
        sock, lock, directory = argument.split(",", 2)
        spec = PhoneSpec.from_json((Path(directory) / SPEC).read_text(encoding="utf-8"))
        phones.append((spec, (int(sock), int(lock))))
    gc.collect()
    gc.freeze()  # or the collector would touch, and so copy, every page that the keepers share
    keepers = {}
    for spec, own in phones:
        pid = os.fork()
        if pid == 0:
            _become_keeper(spec, own, [fd for _, fds in phones if fds != own for fd in fds])
        keepers[pid] = spec.name
    while keepers:
        pid, status = os.wait()
        ended = describe_exit(128 - code) if (code := os.waitstatus_to_exitcode(status)) < 0 else "ended"
        _report({"name": keepers.pop(pid), "error": f"its keeper {ended}"})


def _become_keeper(spec: PhoneSpec, own: tuple[int, int], others: Sequence[int]) -> NoReturn:
    """In the forked child: start the phone, report, wait for the word to stay, serve."""
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o022)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for fd in others:
            os.close(fd)
        for fd in own:
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        sign(own[1])
        log = os.open(
            spec.directory / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        os.dup2(log, 2)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        sock = socket.socket(fileno=own[0])
        keeper = _start(spec, sock)
        if keeper is not None:
            stay = os.read(0, 1)
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, 0)
            os.dup2(null, 1)
            if stay:
                keeper.run()
                code = 0
            else:
                keeper.close()
    except BaseException:  # noqa: BLE001 (a forked child must not return into the launcher's loop; it says why)
        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _start(spec: PhoneSpec, sock: socket.socket) -> Keeper | None:
    """Start the phone and report how it went; None if it did not start."""
    try:
        keeper = Keeper(spec, sock)
    except DevicelabError as error:
        _report_failure(spec, error)
        return None
    except OSError as error:
        _report_failure(spec, host_error("cannot start it", error))
        raise
    except Exception as error:
        _report({"name": spec.name, "error": f"its keeper failed: {error!r}"[:_WORDS]})
        raise
    _report({"name": spec.name})
    return keeper


def _report_failure(spec: PhoneSpec, error: DevicelabError) -> None:
    host = isinstance(error, ConfigError)
    hint = error.hint[:_WORDS] if error.hint else None
    _report({"name": spec.name, "error": error.message[:_WORDS], "hint": hint, "host": host})


def _report(message: dict[str, object]) -> None:
    """One line on stdout, which the keepers share: short enough to be written at once (PIPE_BUF)."""
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
