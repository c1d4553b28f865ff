"""Debian and Ubuntu packages, fetched through the host's own apt without touching the host.

apt runs with a private state directory and only what matters from the host's set-up: the mirror, its keyring
and the ``Acquire`` settings (proxies, time-outs). It checks the signatures and hashes as it always does;
nothing is installed, and no root rights are needed. ``dpkg-deb -x`` unpacks.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devicelab.deadline import Deadline
from devicelab.errors import ConfigError, VirtualPhoneError
from devicelab.fetching import Progress, lacks_space, run_to_end
from devicelab.files import NO_SPACE_HINT

__all__ = [
    "Mirror",
    "choose_mirror",
    "fetch_packages",
    "host_arch",
    "packages_problem",
    "parse_stanzas",
    "system_mirror",
]

DEBIAN_SUITE = "trixie"  # the first Debian release whose adbd takes --device_banner
UBUNTU_PORTS = "http://ports.ubuntu.com/ubuntu-ports"  # where Ubuntu keeps all but amd64 and i386
_SECOND_TRY_SECONDS = 2.0
_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}


def host_arch() -> str:
    """This machine's architecture in Debian's words: ``amd64`` or ``arm64``.

    Raises:
        VirtualPhoneError: It is neither.
    """
    machine = platform.machine()
    if machine not in _ARCHES:
        raise VirtualPhoneError(f"virtual phones need an x86_64 or aarch64 machine; this one is {machine}")
    return _ARCHES[machine]


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where packages come from.

    Attributes:
        distribution: ``debian`` or ``ubuntu``.
        uri: The repository's root, as in the host's own apt sources.
        suite: The release that the host itself runs.
        signed_by: The source's ``Signed-By``: key files, fingerprints, or a whole key; empty for apt's default.
    """

    distribution: str
    uri: str
    suite: str
    signed_by: str


def fetch_packages(
    names: Sequence[str],
    dest: Path,
    *,
    arch: str | None = None,
    suite: str | None = None,
    deadline: Deadline | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Unpack packages and all they depend on into a directory, as if it were an empty system's root.

    Args:
        names: Package names.
        dest: Where to unpack; created if absent.
        arch: ``amd64`` or ``arm64``; the host's own by default.
        suite: The release to take them from (``bookworm``); by default trixie on Debian, the
            host's own on Ubuntu.
        deadline: For all of it; ten minutes by default.
        progress: Told what is being done.

    Returns:
        The unpacked packages as ``name_version_arch``, sorted.

    Raises:
        VirtualPhoneError: No apt, no network, no such package, a bad signature.
        ConfigError: No space left on this host.
        DeadlineError: It took too long.
    """
    deadline = deadline or Deadline(f"fetching {', '.join(names)}", 600)
    tell = progress or (lambda _message: None)
    if (problem := packages_problem()) is not None:
        hint = "phone images are built from Debian packages; elsewhere only the Python body works"
        raise VirtualPhoneError(f"cannot fetch packages: {problem}", hint=hint)
    mirror = system_mirror(deadline)
    suite = suite or (DEBIAN_SUITE if mirror.distribution == "debian" else mirror.suite)
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="devicelab-apt.") as state:
        apt = _Apt(Path(state), mirror, arch or host_arch(), suite, deadline)
        tell(f"reading the package lists of {mirror.distribution} {suite} from {mirror.uri}")
        apt.update()
        tell(f"downloading {', '.join(names)}")
        apt.run("install", "--download-only", *names)
        archives = sorted((apt.state / "cache/archives").glob("*.deb"))
        tell(f"unpacking {len(archives)} packages")
        for archive in archives:
            _run(["dpkg-deb", "-x", str(archive), str(dest)], deadline)
    return [archive.stem for archive in archives]


def packages_problem() -> str | None:
    """Why packages cannot be fetched on this machine whatever the network says; None if they can."""
    if missing := [tool for tool in ("apt-get", "apt-config", "dpkg-deb") if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not found"
    release = _os_release()
    return None if _distribution(release) else f"{_pretty(release)} is neither Debian nor Ubuntu"


class _Apt:
    """One apt with a private state: its own sources, lists, cache and an empty list of installed packages."""

    def __init__(self, state: Path, mirror: Mirror, arch: str, suite: str, deadline: Deadline) -> None:
        self.state = state
        self._deadline = deadline
        for part in ("lists/partial", "cache/archives/partial", "etc"):
            (state / part).mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text(self._source(mirror, arch, suite), encoding="utf-8")
        (state / "apt.conf").write_text(self._config(arch), encoding="utf-8")
        self._environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf"), "LC_ALL": "C"}

    def update(self) -> None:
        """Fetch the package lists; once more if that fails, for a mirror may just be changing.

        Raises:
            VirtualPhoneError: It failed twice.
        """
        arguments = ("update", "-o", "APT::Update::Error-Mode=any")
        try:
            self.run(*arguments)
        except VirtualPhoneError:
            time.sleep(self._deadline.capped(_SECOND_TRY_SECONDS))
            self.run(*arguments)

    def run(self, *arguments: str) -> None:
        """Run ``apt-get`` with these arguments.

        Raises:
            VirtualPhoneError: It failed; the message holds its own first error.
        """
        _run(["apt-get", "-q", "-y", *arguments], self._deadline, self._environment)

    def _source(self, mirror: Mirror, arch: str, suite: str) -> str:
        """The one line of our sources.list."""
        uri = mirror.uri
        if mirror.distribution == "ubuntu" and (arch in ("amd64", "i386")) != (host_arch() == "amd64"):
            uri = UBUNTU_PORTS
        components = "main universe" if mirror.distribution == "ubuntu" else "main"
        return f"deb [arch={arch}{self._signed_by(mirror)}] {uri} {suite} {components}\n"

    def _signed_by(self, mirror: Mirror) -> str:
        """The ``signed-by`` option; a key that stands in the source itself goes to a file first."""
        if not mirror.signed_by:
            return ""
        if "BEGIN PGP" not in mirror.signed_by:
            return f" signed-by={','.join(mirror.signed_by.split())}"
        lines = [line.strip() for line in mirror.signed_by.strip().splitlines()]
        key = self.state / "key.asc"
        key.write_text("\n".join("" if line == "." else line for line in lines) + "\n", encoding="ascii")
        return f" signed-by={key}"

    def _config(self, arch: str) -> str:
        """Our apt.conf: private paths, no hooks, and the host's ways to reach the network."""
        settings = {
            "APT::Architecture": arch,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",  # i.e. none: the state directory is readable for its owner alone
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Dir::Cache": f"{self.state}/cache",
            "Dir::Etc::main": f"{self.state}/none",
            "Dir::Etc::parts": f"{self.state}/none.d",
            "Dir::Etc::preferences": f"{self.state}/none",
            "Dir::Etc::preferencesparts": f"{self.state}/none.d",
            "Dir::Etc::sourcelist": f"{self.state}/sources.list",
            "Dir::Etc::sourceparts": f"{self.state}/none.d",
            "Dir::State": str(self.state),
            "Dir::State::Lists": f"{self.state}/lists",
            "Dir::State::status": f"{self.state}/status",
        }
        network = _run(["apt-config", "dump", "Acquire"], self._deadline)
        ours = "".join(f'{key} "{value}";\n' for key, value in settings.items())
        return f'{network}#clear APT::Architectures;\nAPT::Architectures:: "{arch}";\n{ours}'


def system_mirror(deadline: Deadline | None = None) -> Mirror:
    """The distribution's mirror and keyring, read from the host's apt configuration in either of its formats.

    Raises:
        VirtualPhoneError: apt has no such source, or the host is neither Debian nor Ubuntu.
    """
    release = _os_release()
    distribution = _distribution(release)
    if distribution is None:
        raise VirtualPhoneError(f"{_pretty(release)} is neither Debian nor Ubuntu")
    deadline = deadline or Deadline("reading apt's sources", 30)
    targets = parse_stanzas(_run(["apt-get", "indextargets"], deadline))
    codename = release.get("UBUNTU_CODENAME") or release.get("VERSION_CODENAME", "")
    return choose_mirror(targets, distribution, codename)


def choose_mirror(targets: Sequence[dict[str, str]], distribution: str, codename: str) -> Mirror:
    """Choose the distribution's main archive among all that apt knows (third parties have a "main", too)."""

    def rank(target: dict[str, str]) -> tuple[bool, bool, bool]:
        return (
            target.get("Origin", "").lower() == distribution,
            f"{distribution}-archive" in target.get("Signed-By", ""),
            target.get("Release") == codename,
        )

    candidates = [
        target
        for target in targets
        if target.get("Created-By") == "Packages"
        and target.get("Component") == "main"
        and target.get("Repo-URI", "").startswith(("http://", "https://", "file:", "copy:", "mirror"))
        and not target.get("Release", "").endswith(("-security", "-updates", "-backports", "-proposed"))
    ]
    best = max(candidates, key=rank, default=None)
    if best is None or not any(rank(best)):
        raise VirtualPhoneError(
            f"apt has no source for {distribution}'s main archive",
            hint="see `apt-get indextargets`; add the distribution's own mirror to /etc/apt/sources.list.d",
        )
    return Mirror(
        distribution, best["Repo-URI"].rstrip("/"), best.get("Release", codename), best.get("Signed-By", "")
    )


def parse_stanzas(text: str) -> list[dict[str, str]]:
    """Parse deb822: stanzas of ``Key: value``, continued on lines that begin with a space."""
    stanzas: list[dict[str, str]] = []
    for block in text.split("\n\n"):
        stanza: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t") and key:
                stanza[key] += f"\n{line}"
            elif ":" in line:
                key, _, value = line.partition(":")
                stanza[key] = value.strip()
        if stanza:
            stanzas.append(stanza)
    return stanzas


def _os_release() -> dict[str, str]:
    """The host's /etc/os-release; empty where there is none."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _distribution(release: Mapping[str, str]) -> str | None:
    """Which of the two package families a system belongs to."""
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    return next((name for name in ("ubuntu", "debian") if name in family), None)


def _pretty(release: Mapping[str, str]) -> str:
    return release.get("PRETTY_NAME", "this system")


def _run(argv: Sequence[str], deadline: Deadline, environment: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        VirtualPhoneError: It failed; with its own words.
        ConfigError: It cannot be started, or it failed for lack of space on this host.
        DeadlineError: It did not end in time; it has been killed.
    """
    done = run_to_end(argv, deadline, environment=environment or {**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        why = _explain(argv, done.stderr, done.stdout)
        if lacks_space(done.stderr + done.stdout):
            raise ConfigError(why, hint=NO_SPACE_HINT)
        raise VirtualPhoneError(why)
    return done.stdout


def _explain(argv: Sequence[str], stderr: str, stdout: str) -> str:
    """Turn a failed program's output into one line."""
    lines = [line.strip() for line in (stderr or stdout).splitlines() if line.strip()]
    telling = [line for line in lines if lacks_space(line)]
    telling = telling or [line.removeprefix("E: ") for line in lines if line.startswith("E: ")] or lines[-1:]
    words = [word for word in argv if not word.startswith("-")]
    return f"`{shlex.join(words[:2])}` failed: {'; '.join(telling[:2])[:500] or 'no word of why'}"
