"""The body for hosts that refuse namespaces: Google's adbd under proot, its listeners supervised by seccomp."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.errors import VirtualPhoneError
from devicelab.fetching import Progress
from devicelab.files import host_error
from devicelab.virtual.body import BodyKind
from devicelab.virtual.familybody import FamilyBody
from devicelab.virtual.inside import ADBD, ENVIRONMENT, SHELL_ID
from devicelab.virtual.ownpython import module_command
from devicelab.virtual.programs import Program, fetch_program
from devicelab.virtual.spec import BodySpec
from devicelab.virtual.trees import remove_tree

__all__ = ["ProotBody", "fetch_proot"]

_PORT = int(ENVIRONMENT["ADBD_PORT"])
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")


def fetch_proot(*, deadline: Deadline | None = None, progress: Progress | None = None) -> Program:
    """proot, from the cache or from Debian's package.

    Raises:
        VirtualPhoneError: It cannot be had.
        DeadlineError: It took too long.
    """
    return fetch_program("proot", ("proot", "proot"), deadline=deadline, progress=progress)


class ProotBody(FamilyBody):
    """Debian's adbd, unmodified, with the image as its ``/`` by system call translation.

    adbd's listener is replaced by ``body/adbd.sock`` while adbd believes it has port 5555; everything else that
    the phone binds is moved to the loopback, and vsock is refused (:mod:`devicelab.virtual.seccomp`).

    ::

        body/system/    the phone's own copy of the image: proot cannot make it read-only
        body/data/      /data
        body/dev/       /dev, but for the host's harmless devices
        body/tmp/       proot's own

    Args:
        spec: The phone.

    Raises:
        VirtualPhoneError: proot cannot be had.
    """

    kind: BodyKind = "proot"
    limits = (
        "no disk quota",
        "it sees the host's processes and network, and runs as you: no boundary against hostile programs",
        "its system directories can be written to",
        "system calls take many times longer",
        "32-bit programs cannot listen",
    )

    def __init__(self, spec: BodySpec) -> None:
        super().__init__(spec)
        if spec.image is None:
            raise VirtualPhoneError("a phone under proot needs an image", device=spec.name)
        self._proot = fetch_proot()
        try:
            self._copy_system(spec.image, spec.bin)
            for name, mode in (("data/local/tmp", 0o771), ("data/media/0", 0o770), ("tmp", 0o700)):
                (self._directory / name).mkdir(parents=True, exist_ok=True)
                (self._directory / name).chmod(mode)
        except OSError as error:
            raise host_error("cannot lay out its files", error) from error

    def _copy_system(self, image: Path, commands: Path | None) -> None:
        system = self._directory / "system"
        shutil.copytree(image, system, symlinks=True)
        if commands is not None:
            shutil.rmtree(system / "system/bin")
            shutil.copytree(commands, system / "system/bin", symlinks=True)

    def _prepare(self) -> None:
        dev = self._directory / "dev"
        remove_tree(dev)  # proot leaves directories in it that nobody may enter
        for name in ("__properties__", "socket"):
            (dev / name).mkdir(parents=True)
        for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            (dev / name).symlink_to(f"/proc/self/fd{target}")

    def _command(self) -> Sequence[str | Path]:
        environment = {**ENVIRONMENT, "PROOT_TMP_DIR": str(self._directory / "tmp")}
        # the image's own shell takes proot's variable out of what the phone sees
        inside = ("/system/bin/sh", "-c", 'unset PROOT_TMP_DIR; exec "$@"', "init", *ADBD)
        task = {
            "socket": str(self.socket_path),
            "port": _PORT,
            "command": [
                *self._proot.command,
                *("-r", str(self._directory / "system"), "-w", "/", "-i", f"{SHELL_ID}:{SHELL_ID}"),
                *self._bindings(),
                *inside,
                f"--device_banner={self._spec.banner}",
            ],
            "environment": environment,
        }
        return (*module_command("devicelab.virtual.prootinit"), json.dumps(task))

    def _bindings(self) -> Iterator[str]:
        """What is shown where, as proot's options; later ones lie over earlier ones."""
        vendor, own = self._spec.vendor, self._directory
        shown = {"/proc": Path("/proc"), "/dev": own / "dev", "/data": own / "data"}
        shown |= {"/vendor": vendor, "/sys": vendor / "sys"}
        shown |= {f"/dev/{name}": Path("/dev", name) for name in _DEVICES if os.path.lexists(f"/dev/{name}")}
        facts = vendor / "proc"
        shown |= {f"/proc/{path.relative_to(facts)}": path for path in facts.rglob("*") if path.is_file()}
        for there, here in shown.items():
            yield from ("-b", f"{here}:{there}")

    def set_disk(self, size: int) -> None:
        """Not with proot."""
        raise self._error(f"cannot make its disk {size} bytes large: proot knows no quota")

    def disk_usage(self) -> tuple[int, int]:
        """Not with proot."""
        raise self._error("its disk has no size of its own: proot knows no quota")
