"""Start the process that keeps a phone's namespaces, from its keeper.

The holder (:mod:`devicelab.virtual.inside`) is the first process of the phone's outer process namespace: when
it ends, for whatever reason, the kernel kills everything in the phone, and with its last process the mounts
and the network go, too. It asks the kernel to be killed when the keeper ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from devicelab.virtual import kernel
from devicelab.virtual.channel import Channel
from devicelab.virtual.inside import SHELL_ID, Holder, Hook
from devicelab.virtual.spec import BodySpec

__all__ = ["Started", "start"]


@dataclass(frozen=True, slots=True)
class Started:
    """A holder that runs.

    Attributes:
        pid: Its process id as the keeper sees it.
        channel: To speak to it.
        life: A pipe's end that the keeper alone holds, by which the holder knew at its start that it lives.
    """

    pid: int
    channel: Channel
    life: int

    def end(self) -> None:
        """Kill it, and with it everything in the phone."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.channel.sock.close()
        os.close(self.life)


def start(spec: BodySpec, hook: Hook | None = None) -> Started:
    """Fork the holder; it is ready once it has answered its first message, ``{"setup": …}``.

    The caller has one thread, which stays as long as the phone shall live. A middle process makes the
    namespaces and ends, so that the holder becomes the caller's own child (PR_SET_CHILD_SUBREAPER): the
    kernel then kills it when the caller ends.

    Raises:
        OSError: The kernel refuses.
        EOFError: A process died on the way.
    """
    kernel.adopt_orphans()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    watched, life = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(life)
        ours.close()
        _child(lambda: _middle(spec, hook, Channel(theirs), watched), Channel(theirs))
    theirs.close()
    os.close(watched)
    channel = Channel(ours)
    try:
        pid = _introduce(channel, middle)
    except BaseException:
        ours.close()  # all that is there by now ends at that
        os.close(life)
        os.kill(middle, signal.SIGKILL)
        raise
    finally:
        os.waitpid(middle, 0)
    channel.send({"orphaned": True})
    return Started(pid, channel, life)


def _introduce(channel: Channel, middle: int) -> int:
    """Give the new namespace its users, and learn the holder's process id."""
    _answer(channel)
    _write_maps(middle)
    channel.send({"mapped": True})
    return int(str(_answer(channel)["holder"]))


def _answer(channel: Channel) -> dict[str, object]:
    """The next message, or the error in it as an OSError."""
    message, _ = channel.receive()
    if "error" in message:
        raise OSError(str(message["error"]))
    return message


def _child(body: Callable[[], None], channel: Channel) -> NoReturn:
    """Run a forked child's part and never return into the parent's code."""
    code = 1
    try:
        body()
        code = 0
    except EOFError:
        pass  # the keeper is gone, and so are we
    except OSError as error:
        with contextlib.suppress(OSError):
            channel.send({"error": f"{error.filename or 'system call'}: {error.strerror or error}"})
    except BaseException:  # noqa: BLE001 (a forked child must not unwind further; it says what happened)
        with contextlib.suppress(OSError):
            channel.send({"error": traceback.format_exc()})
    finally:
        os._exit(code)


def _write_maps(pid: int) -> None:
    """Say which host users a fresh user namespace knows (from outside it, as root's two lines ask for).

    An ordinary user appears as 0 in it. Root appears as 0 and, so that nothing in the phone runs as the host's
    root, lends the phone's shell an id that nobody has.
    """
    process = Path("/proc") / str(pid)
    uids, gids = f"0 {os.geteuid()} 1\n", f"0 {os.getegid()} 1\n"
    spare = _spare_id()
    if spare is not None:
        uids += f"{SHELL_ID} {spare} 1\n"
        gids += f"{SHELL_ID} {spare} 1\n"
    (process / "setgroups").write_text("deny" if spare is None else "allow", encoding="utf-8")
    (process / "uid_map").write_text(uids, encoding="utf-8")
    (process / "gid_map").write_text(gids, encoding="utf-8")


def _spare_id() -> int | None:
    """The highest user id that root may lend, at most 2000002000; None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    highest = []
    for name in ("uid_map", "gid_map"):
        ranges = [line.split() for line in Path("/proc/self", name).read_text(encoding="utf-8").splitlines()]
        highest.append(max(int(inner) + int(count) - 1 for inner, _, count in ranges))
    spare = min(*highest, 2_000_000_000 + SHELL_ID)
    return spare if spare > SHELL_ID else None


def _middle(spec: BodySpec, hook: Hook | None, channel: Channel, watched: int) -> None:
    """Make the namespaces and the holder in them, then end."""
    kernel.unshare(
        kernel.CLONE_NEWUSER
        | kernel.CLONE_NEWNS
        | kernel.CLONE_NEWPID
        | kernel.CLONE_NEWNET
        | kernel.CLONE_NEWUTS
        | kernel.CLONE_NEWIPC
    )
    channel.send({"unshared": True})
    channel.receive()
    holder = os.fork()
    if holder == 0:
        _child(lambda: Holder(spec, hook, channel, watched).run(), channel)
    channel.send({"holder": holder})
