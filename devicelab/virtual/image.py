"""The phone image: a slim root file system with Google's adbd, mksh as ``/system/bin/sh`` and toybox.

Built once per recipe and architecture into the cache directory and shared, read-only, by all phones::

    <cache>/images/phone-amd64-<recipe>/    the root file system; flocked (shared) while a phone runs on it
    <cache>/images/.lock                    held while an image is built or removed

A build goes to a directory of another name that is renamed once it is whole, so a killed build leaves nothing
that looks finished; whoever builds next removes it. Images of older recipes go when a newer one is built,
unless a phone still runs on them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from devicelab.deadline import Deadline
from devicelab.devices.locks import flocked
from devicelab.errors import VirtualPhoneError
from devicelab.fetching import Progress
from devicelab.files import cache_dir, host_error
from devicelab.virtual.libraries import closure, read_elf
from devicelab.virtual.packages import fetch_packages, host_arch

__all__ = [
    "COMMANDS",
    "FILES",
    "LIBRARIES",
    "PROGRAMS",
    "TRIPLETS",
    "build_image",
    "cached_image",
    "hold_image",
]

PACKAGES: Final = ("adbd", "busybox", "mksh", "toybox")
PROGRAMS: Final[dict[str, str]] = {  # in the packages -> in the image; /system/bin links to them
    "usr/lib/android-sdk/platform-tools/adbd": "usr/bin/adbd",
    "usr/bin/mksh": "usr/bin/mksh",
    "usr/bin/toybox": "usr/bin/toybox",
    "usr/bin/busybox": "usr/bin/busybox",
}
LIBRARIES: Final = (  # what ONNX Runtime's library for Linux loads, and the programs above may not
    *("libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1"),
    "libstdc++.so.6",
)
SCRIPTS: Final = Path(__file__).with_name("scripts")
DIRECTORIES: Final = (
    *(
        "apex",
        "data",
        "dev",
        "etc",
        "mnt",
        "odm",
        "proc",
        "product",
        "storage",
        "sys",
        "system/bin",
        "system/etc",
    ),
    *("usr/lib", "vendor"),
)
LINKS: Final = {"bin": "system/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sdcard": "data/media/0"}
FILES: Final[dict[str, str]] = {
    "etc/passwd": "root:x:0:0:root:/:/system/bin/sh\nshell:x:2000:2000:shell:/:/system/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/system/bin/sh\n",
    "etc/group": "root:x:0:\nshell:x:2000:\nnobody:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}
TRIPLETS: Final[dict[str, str]] = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

_PART: Final = ".part-"

_TOYBOX: Final = (
    "acpi base64 basename blkid blockdev cal cat chattr chgrp chmod chown chroot chrt cksum clear cmp "
    "comm cp cpio cut date devmem df dirname dmesg dos2unix du echo egrep env expand fallocate false "
    "fgrep file find flock fmt free freeramdisk fsfreeze fsync getconf grep groups gunzip head help "
    "hostname hwclock i2cdetect i2cdump i2cget i2cset iconv id ifconfig inotifyd install ionice iorenice "
    "iotop kill killall link ln logname losetup ls lsattr lsmod lspci lsusb makedevs md5sum microcom "
    "mkdir mkfifo mknod mkswap mktemp modinfo mountpoint mv nbd-client nc netcat netstat nice nl nohup "
    "nproc nsenter od partprobe paste patch pgrep pidof ping ping6 pivot_root pkill pmap printenv printf "
    "prlimit ps pwd pwdx readelf readlink realpath renice rev rfkill rm rmdir rtcwake sed seq setfattr "
    "setsid sha1sum sha224sum sha256sum sha384sum sha512sum sleep sort split stat strings swapoff swapon "
    "sync sysctl tac tail tar taskset tee test time timeout top touch true truncate tty tunctl uclampset "
    "ulimit umount uname uniq unix2dos unlink unshare uptime usleep uudecode uuencode uuidgen vconfig "
    "vmstat watch wc which whoami xargs xxd yes zcat "
)
_BUSYBOX: Final = (
    "awk bc dd diff expr gzip more mount stty tr traceroute vi"  # in Android's toybox, not in Debian's
)

COMMANDS: Final[dict[str, str]] = {
    "sh": "mksh",
    "adbd": "adbd",
    "toybox": "toybox",
    **dict.fromkeys(_TOYBOX.split(), "toybox"),
    **dict.fromkeys(_BUSYBOX.split(), "busybox"),
}
"""Every command that is a link in ``/system/bin``, and the program in ``/usr/bin`` that it links to."""


def build_image(
    *, arch: str | None = None, deadline: Deadline | None = None, progress: Progress | None = None
) -> Path:
    """The phone image for an architecture, built first if the cache does not hold it.

    Takes about 5 s and 15 MB of downloads the first time, then a millisecond. Concurrent callers wait for the
    one that builds.

    Args:
        arch: ``amd64`` or ``arm64``; the host's own by default.
        deadline: For all of it; ten minutes by default.
        progress: Told what is being done; not called where the image is there already.

    Returns:
        The root file system's directory; never write to it.

    Raises:
        VirtualPhoneError: No apt, no network, a package missing, …
        ConfigError: A full disk, a cache directory that cannot be written to, …
        DeadlineError: It took too long.
    """
    arch = arch or host_arch()
    if arch not in TRIPLETS:
        raise VirtualPhoneError(f"no phone image for {arch}: only for {' and '.join(TRIPLETS)}")
    deadline = deadline or Deadline("building the phone image", 600)
    image = _place(arch)
    if image.is_dir():
        return image
    images = image.parent
    try:
        images.mkdir(parents=True, exist_ok=True)
        with (images / ".lock").open("a") as lock, flocked(lock.fileno(), deadline):
            if not image.is_dir():
                _build(image, arch, deadline, progress)
                _remove_older(images, image)
    except OSError as error:
        raise host_error(f"cannot build the phone image in {images}", error) from error
    return image


def cached_image(arch: str | None = None) -> Path | None:
    """The phone image for an architecture if it has been built already."""
    image = _place(arch or host_arch())
    return image if image.is_dir() else None


def _place(arch: str) -> Path:
    return cache_dir() / "images" / f"phone-{arch}-{_recipe()}"


def hold_image(image: Path) -> int:
    """Keep an image from being removed for as long as the returned file descriptor, or a copy of it, is open.

    Raises:
        VirtualPhoneError: It has just been removed.
    """
    gone = VirtualPhoneError(f"the phone image {image} is gone", hint="try again: it will be built anew")
    try:
        fd = os.open(image, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise gone from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not _is_still(fd, image):
            raise gone
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_still(fd: int, path: Path) -> bool:
    """Whether a path still leads to what was opened by it."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _recipe() -> str:
    """A short hash of everything that decides what the image holds, but for the packages' versions."""
    recipe = {
        "packages": PACKAGES,
        "programs": PROGRAMS,
        "libraries": LIBRARIES,
        "directories": DIRECTORIES,
        "links": LINKS,
        "files": FILES,
        "commands": COMMANDS,
        "scripts": {path.name: path.read_text(encoding="utf-8") for path in sorted(SCRIPTS.iterdir())},
        "layout": 1,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def _build(image: Path, arch: str, deadline: Deadline, progress: Progress | None) -> None:
    """Fetch, lay out beside the final name, rename. The caller holds the lock."""
    for leftover in image.parent.glob(f"{_PART}*"):
        shutil.rmtree(leftover)
    part = Path(tempfile.mkdtemp(prefix=_PART, dir=image.parent))
    try:
        packages = fetch_packages(PACKAGES, part / "packages", arch=arch, deadline=deadline, progress=progress)
        root = part / "root"
        _lay_out(part / "packages", root, TRIPLETS[arch])
        (root / "system/etc/packages.txt").write_text("\n".join(packages) + "\n", encoding="utf-8")
        _flush(root)
        root.rename(image)
    finally:
        shutil.rmtree(part)


def _lay_out(packages: Path, root: Path, triplet: str) -> None:
    """Copy what adbd, mksh and the tools need, in Android's places."""
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True)
    for link, target in LINKS.items():
        (root / link).symlink_to(target)
    for name, text in FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    programs = [packages / source for source in PROGRAMS]
    if missing := [program.name for program in programs if not program.exists()]:
        raise VirtualPhoneError(
            f"the packages hold no {', '.join(missing)}; this distribution lays them out otherwise"
        )
    for source, dest in PROGRAMS.items():
        _copy(packages / source, root / dest, 0o755)
    folders = [packages / "usr/lib" / triplet / "android", packages / "usr/lib" / triplet]
    libraries = {name: folders[1] / name for name in LIBRARIES}
    if missing := [name for name, library in libraries.items() if not library.exists()]:
        raise VirtualPhoneError(f"the packages hold no {', '.join(missing)}")
    for name, library in (libraries | closure([*programs, *libraries.values()], folders)).items():
        _copy(library, root / library.parent.relative_to(packages) / name, 0o755)
    interpreter = read_elf(programs[0]).interpreter.lstrip("/")
    _copy(packages / "usr" / interpreter, root / "usr" / interpreter, 0o755)
    for command, program in COMMANDS.items():
        (root / "system/bin" / command).symlink_to(f"../../usr/bin/{program}")
    for script in SCRIPTS.iterdir():
        (root / "system/bin" / script.name).unlink(missing_ok=True)  # df replaces toybox's
        _copy(script, root / "system/bin" / script.name, 0o755)


def _copy(source: Path, dest: Path, mode: int) -> None:
    """Copy a file's content (through symbolic links) under a mode of our own."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, dest)
    dest.chmod(mode)


def _flush(root: Path) -> None:
    """Bring all files to the disk, so that no crash leaves half-written ones under the final name."""
    for path in root.rglob("*"):
        if path.is_symlink():
            continue
        if path.is_dir():
            path.chmod(0o755)
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    root.chmod(0o755)


def _remove_older(images: Path, image: Path) -> None:
    """Remove older images for the same architecture that no phone runs on. The caller holds the lock."""
    kind = image.name.rpartition("-")[0]
    for other in images.glob(f"{kind}-*"):
        if other == image:
            continue
        fd = os.open(other, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Under another name first: nobody can begin to use it then, and a killed removal is resumed.
            shutil.rmtree(other.rename(images / f"{_PART}{other.name}"))
        except BlockingIOError:
            continue  # in use
        finally:
            os.close(fd)
