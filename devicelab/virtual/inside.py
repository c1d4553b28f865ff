"""The process inside a phone's namespaces: it keeps them, and the data partition, over kills and boots.

What it mounts below ``<phone>/body/root`` is seen by the phone alone. Each boot is a process namespace of its
own, with fresh ``/proc`` and ``/dev``, and ends in ``/system/bin/init``, with no way back to the host's
files.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from devicelab.virtual import kernel
from devicelab.virtual.channel import Channel
from devicelab.virtual.ownpython import hear_signals
from devicelab.virtual.spec import BodySpec

__all__ = ["ADBD", "ENVIRONMENT", "SHELL_ID", "Holder", "Hook"]

SHELL_ID = 2000  # Android's AID_SHELL: whom adbd and its shells run as
ADBD = ("/system/bin/init", "/system/bin/adbd")
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/product/bin:/system/bin:/system/xbin:/vendor/bin",
    "ANDROID_ROOT": "/system",
    "ANDROID_DATA": "/data",
    "ANDROID_STORAGE": "/storage",
    "EXTERNAL_STORAGE": "/sdcard",
    "HOME": "/",
    "TMPDIR": "/data/local/tmp",
    "ANDROID_LOG_TAGS": "*:w",  # or adbd writes a dozen lines for every connection
    "ADBD_PORT": "5555",  # Debian's adbd reads it where Android's reads service.adb.tcp.port
}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

Hook = Callable[[Path], None]
"""Called at each boot with the phone's root directory, while the host's files can still be seen."""

Message = dict[str, object]


class Holder:
    """Set up once, then serve one request after the other.

    Args:
        spec: The phone.
        hook: Called at each boot.
        channel: The keeper's requests.
        life: A pipe's reading end, whose other end the keeper alone holds.
    """

    def __init__(self, spec: BodySpec, hook: Hook | None, channel: Channel, life: int) -> None:
        self._spec = spec
        self._hook = hook
        self._channel = channel
        self._life = life
        self._root = spec.directory / "body" / "root"
        self._init = 0  # the running boot's first process; 0 while the phone is off

    def run(self) -> None:
        """Serve until the keeper closes its end (then EOFError) or ends."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for number in (0, 1):  # the keeper's are pipes to the command that started it
            os.dup2(null, number)
        self._channel.receive()  # the middle process has ended: the keeper is our parent now
        kernel.die_with_parent()
        if select.select([self._life], [], [], 0)[0]:
            return  # the keeper ended just before
        answers: Mapping[str, Callable[[Message], Message]] = {
            "try": self._try,
            "setup": self._setup,
            "boot": self._boot,
            "alive": self._alive,
            "kill": self._kill,
            "signal": self._signal,
            "resize": self._resize,
            "usage": self._usage,
        }
        while True:
            message, _ = self._channel.receive()
            name = next(iter(message))
            try:
                if name == "socket":
                    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
                        self._channel.send({}, sock.fileno())
                    continue
                answer = answers[name](message)
            except OSError as error:
                answer = {"error": _describe(error)}
            self._channel.send(answer)

    def _try(self, _message: Message) -> Message:
        """Do once, on scrap, all that the kernel could refuse."""
        kernel.make_private()
        kernel.loopback_up()
        socket.sethostname("localhost")
        root = Path("/tmp")  # noqa: S108 (only a mount point that every machine has)
        kernel.mount("tmpfs", root, "tmpfs")
        for name in ("proc", "pts"):
            (root / name).mkdir()
        kernel.mount("proc", root / "proc", "proc")
        kernel.mount("devpts", root / "pts", "devpts", 0, "newinstance")
        kernel.bind(Path("/proc/cpuinfo"), root / "proc/cpuinfo")
        if self._hook is not None:
            self._hook(root)
        kernel.pivot(root)
        self._become_shell()
        kernel.refuse_vsock()
        return {}

    def _setup(self, _message: Message) -> Message:
        """Mount what outlives a boot: the image, the facts, the data partition."""
        spec, root = self._spec, self._root
        if spec.image is None:
            raise ValueError("a phone in namespaces needs an image")
        kernel.make_private()
        kernel.loopback_up()
        socket.sethostname("localhost")
        kernel.bind(spec.image, root)
        kernel.bind(spec.vendor, root / "vendor")
        kernel.bind(spec.vendor / "sys", root / "sys")
        if spec.bin is not None:
            kernel.bind(spec.bin, root / "system/bin")
        data = root / "data"
        source = "/dev/block/dm-49"  # what df prints first
        kernel.mount(source, data, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"size={spec.disk},mode=771")
        for name, mode in (("local", 0o751), ("local/tmp", 0o771), ("media", 0o770), ("media/0", 0o770)):
            (data / name).mkdir()
            self._give_to_shell(data / name, mode)
        return {}

    def _give_to_shell(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if _lent_id():
            os.chown(path, SHELL_ID, SHELL_ID)

    def _boot(self, _message: Message) -> Message:
        """Start the phone's init in a new process namespace; the answer says why, if it did not start."""
        # A process may send its children to another namespace only once, unless it first returns to its own.
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.setns(own, kernel.CLONE_NEWPID)
        finally:
            os.close(own)
        kernel.unshare(kernel.CLONE_NEWPID)
        said, report = os.pipe()
        init = os.fork()
        if init == 0:
            os.close(said)
            self._become_init(report)
        os.close(report)
        with os.fdopen(said, "rb") as file:
            trouble = file.read()  # empty once exec has closed the other end
        if trouble:
            os.waitpid(init, 0)
            return {"error": trouble.decode("utf-8", "replace")}
        self._init = init
        return {}

    def _become_init(self, report: int) -> NoReturn:
        """In the forked child: finish the mounts, give up all power, run ``/system/bin/init``."""
        try:
            os.setsid()
            self._mount_for_boot()
            log = os.open(self._spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            for fd, number in ((null, 0), (log, 1), (log, 2)):
                os.dup2(fd, number)
            kernel.pivot(self._root)
            self._become_shell()
            kernel.refuse_vsock()
            hear_signals()
            argv = [*ADBD, f"--device_banner={self._spec.banner}"]
            os.execve(argv[0], argv, dict(ENVIRONMENT))  # noqa: S606 (no shell wanted)
        except OSError as error:
            os.write(report, f"{_describe(error)}".encode())
        except BaseException:  # noqa: BLE001 (a forked child must not unwind further)
            os.write(report, traceback.format_exc().encode())
        finally:
            os._exit(1)

    def _mount_for_boot(self) -> None:
        """What a boot has to itself: /proc, /dev, the boot id."""
        kernel.unshare(kernel.CLONE_NEWNS)
        root = self._root
        kernel.mount("proc", root / "proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        facts = self._spec.vendor / "proc"
        for fact in facts.rglob("*"):
            if fact.is_file():
                kernel.bind(fact, root / "proc" / fact.relative_to(facts))
        dev = root / "dev"
        kernel.mount("tmpfs", dev, "tmpfs", kernel.MS_NOSUID, "mode=755,size=1m")
        for name in _DEVICES:
            (dev / name).touch()
            kernel.bind(Path("/dev") / name, dev / name, writable=True)
        for name in ("pts", "socket", "__properties__"):
            (dev / name).mkdir()
        self._give_to_shell(dev / "__properties__", 0o755)
        flags = kernel.MS_NOSUID | kernel.MS_NOEXEC
        kernel.mount("devpts", dev / "pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=620")
        (dev / "ptmx").symlink_to("pts/ptmx")
        for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            (dev / name).symlink_to(f"/proc/self/fd{target}")
        if self._hook is not None:
            self._hook(root)

    def _become_shell(self) -> None:
        """Be uid 2000: the id that root lent us, or our own by that number in one more namespace."""
        if _lent_id():
            os.setgroups([])
            os.setresgid(SHELL_ID, SHELL_ID, SHELL_ID)
            os.setresuid(SHELL_ID, SHELL_ID, SHELL_ID)
            return
        kernel.unshare(kernel.CLONE_NEWUSER)
        process = Path("/proc/self")
        (process / "setgroups").write_text("deny", encoding="utf-8")
        (process / "uid_map").write_text(f"{SHELL_ID} 0 1\n", encoding="utf-8")
        (process / "gid_map").write_text(f"{SHELL_ID} 0 1\n", encoding="utf-8")

    def _alive(self, _message: Message) -> Message:
        """Whether this boot's init runs; reaps it if it does not."""
        if self._init and os.waitpid(self._init, os.WNOHANG)[0] == self._init:
            self._init = 0
        return {"alive": self._init != 0}

    def _kill(self, _message: Message) -> Message:
        """End the boot. init's end is seen only after the kernel has killed the rest of its namespace."""
        if self._init:
            os.kill(self._init, signal.SIGKILL)
            os.waitpid(self._init, 0)
            self._init = 0
        return {}

    def _signal(self, message: Message) -> Message:
        """Send a signal to every process in the phone at once: all that we can see but ourselves."""
        if self._init:
            os.kill(-1, signal.Signals(int(str(message["signal"]))))
        return {}

    def _resize(self, message: Message) -> Message:
        """Change the data partition's size; the kernel refuses less than what is in use (EINVAL)."""
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.remount(self._root / "data", flags, f"size={int(str(message['resize']))}")
        return {}

    def _usage(self, _message: Message) -> Message:
        """Bytes on the data partition: in all and in use."""
        found = os.statvfs(self._root / "data")
        return {
            "size": found.f_blocks * found.f_frsize,
            "used": (found.f_blocks - found.f_bfree) * found.f_frsize,
        }


def _lent_id() -> bool:
    """Whether the user namespace knows uid 2000, as root's does (:func:`devicelab.virtual.holder.start`)."""
    lines = Path("/proc/self/uid_map").read_text(encoding="utf-8").splitlines()
    return any(line.split()[0] == str(SHELL_ID) for line in lines)


def _describe(error: OSError) -> str:
    return f"{error.filename or 'system call'}: {error.strerror or error}"
