"""One question to a phone that answers all the others: is it there, is it fit, what is it?

A single shell command echoes a nonce, writes, reads and deletes a file in the work directory and prints every
text that :mod:`devicelab.devices.facts` reads, so that looking at a phone costs one round trip. Sections are
separated by lines that hold the nonce; since no text on the phone can know it, none can forge a section, and
since the script holds it in two halves, a phone that merely repeats the script does not pass either.

The script runs on everything from the mksh and toolbox of Android 4.4 to toybox. It must stay

* short: an old adbd takes at most 4096 bytes for a service name;
* cheap: what the shell can do itself needs no process. It starts getprop, cat, rm, df, getconf and dumpsys
  twice. Since dumpsys hangs for ever where the system server hangs, and toolbox has no ``timeout``, each one
  races a sleep: whichever ends first ends the other, so that neither outlives the probe.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field, fields

from devicelab.adb import shell
from devicelab.adb.connection import Connection
from devicelab.deadline import Deadline
from devicelab.devices.facts import WORK_DIR, DeviceFacts, RawFacts, read_facts
from devicelab.devices.text import MAX_TEXT, clean

__all__ = ["PROBE_FILE", "Probe", "build_script", "new_nonce", "parse_reply", "probe"]

PROBE_FILE = ".devicelab-probe-"
"""How the file in the work directory begins that the probe writes and deletes; the minute and the nonce follow.

A probe that is cut off leaves it behind. Whoever asks next removes those of other minutes than this one and the
last; younger ones may be another host's that is asking at this moment.
"""

_NONCE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PATIENCE = 3  # seconds for each dumpsys, counted on the phone
_TOOLS = ("sha256sum", "setsid", "nohup", "timeout", "taskset")

# Every part but the first three is the text of the RawFacts field of that name.
# The sleep is ended with SIGKILL: mksh has a handler of its own for SIGTERM, which a child that has just been
# forked still inherits, so that the signal is lost if it comes before the child's exec.
_SCRIPT = """\
exec 2>/dev/null
n={first}
n=${{n}}{second}
m="
@$n "
f={directory}/{file}{minute:x}-$n
echo "${{m}}write"
{{ echo $n >$f; }} 2>&1 && echo ok
echo "${{m}}read"
x=
{{ read x <$f; }} 2>&1
[ "$x" = $n ] && echo ok
echo "${{m}}delete"
for x in {directory}/{file}*; do
case $x in
*-{minute:x}-*|*-{minute_before:x}-*) ;;
*) set -- "$@" "$x" ;;
esac
done
rm $f "$@" 2>&1
[ -e $f ] || echo ok
echo "${{m}}getprop"
getprop
echo "${{m}}proc"
cat /proc/meminfo /proc/cpuinfo
echo "${{m}}cpus"
x=
read x </sys/devices/system/cpu/present
echo "$x"
echo "${{m}}boot_id"
x=
read x </proc/sys/kernel/random/boot_id
echo "$x"
echo "${{m}}uid"
echo "${{USER_ID:-$(id)}}"
echo "${{m}}tools"
for x in {tools}; do command -v $x >/dev/null && echo $x; done
echo "${{m}}page_size"
command -v getconf >/dev/null && getconf PAGESIZE
echo "${{m}}df"
df -k {directory} || df {directory}
q() {{
sleep {patience} </dev/null >/dev/null &
s=$!
(trap 'kill -9 $!; exit' TERM
dumpsys $1 2>&1 &
wait $!
kill -9 $s) &
d=$!
wait $s
r=$?
[ $r = 0 ] && kill $d
wait $d
[ $r = 0 ] && echo "${{m}}late $1"
}}
echo "${{m}}battery"
q battery
echo "${{m}}thermal"
q thermalservice
echo "${{m}}end"
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a phone answered.

    Attributes:
        facts: All that is known of it.
        problem: Why no work can be given to it, in words, None if it echoed the nonce and wrote, read and
            deleted a file. A phone may have a problem and good facts (a full one has).
        answered: Whether the nonce came back at all; without it there are no facts.
        late: The services that did not answer ``dumpsys`` in time; their facts are unknown.
    """

    facts: DeviceFacts = field(default_factory=DeviceFacts)
    problem: str | None = None
    answered: bool = True
    late: tuple[str, ...] = ()


def new_nonce() -> str:
    """32 random hexadecimal digits."""
    return secrets.token_hex(16)


def build_script(nonce: str, *, patience: int = _PATIENCE) -> str:
    """The script that asks everything.

    Args:
        nonce: From :func:`new_nonce`, fresh for every probe.
        patience: Whole seconds that each dumpsys may take on the phone before it is killed there.

    Raises:
        ValueError: Not such a nonce (it goes into shell text unquoted).
    """
    if _NONCE.fullmatch(nonce) is None:
        raise ValueError(f"not a nonce: {nonce!r}")
    minute = _minute()
    return _SCRIPT.format(
        first=nonce[:16],
        second=nonce[16:],
        directory=WORK_DIR,
        file=PROBE_FILE,
        minute=minute,
        minute_before=minute - 1,
        tools=" ".join(_TOOLS),
        patience=int(patience),
    )


def parse_reply(text: str, nonce: str) -> Probe:
    """Read what the script printed. Never raises, whatever the text holds.

    A reply that was cut off gives the facts it has, and the missing end as the problem.
    """
    sections, late = _sections(text, nonce)
    if "write" not in sections:
        return Probe(problem="its shell did not echo what it was asked to", answered=False)
    raw = {part.name: sections[part.name] for part in fields(RawFacts) if part.name in sections}
    return Probe(facts=read_facts(RawFacts(**raw)), problem=_problem(sections), late=late)


def probe(connection: Connection, deadline: Deadline) -> Probe:
    """Ask one phone.

    Raises:
        DeviceLostError: It went away.
        ProtocolError: Its answer breaks the protocol.
        ServiceRefusedError: It opens no shell.
        DeadlineError: It did not answer in time.
    """
    nonce = new_nonce()
    # `eval` is a word of the shell that adbd starts anyway; `sh -c` would start a second one.
    result = shell.run(
        connection, ["eval", build_script(nonce)], deadline=deadline, limit=MAX_TEXT, check=False
    )
    return parse_reply(result.stdout.decode("utf-8", "replace"), nonce)


def _minute() -> int:
    return int(time.time() // 60)


def _sections(text: str, nonce: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The parts between separator lines by name, the first of each name, and the names marked as late."""
    sections: dict[str, str] = {}
    late: list[str] = []
    mark = f"\n@{nonce} "
    for part in ("\n" + text[:MAX_TEXT]).split(mark)[1:]:
        title, _, body = part.partition("\n")
        name, _, detail = title.rstrip("\r").partition(" ")
        if name == "late":
            late.append(clean(detail, 40))
        else:
            sections.setdefault(name, body)
    return sections, tuple(late)


def _problem(sections: dict[str, str]) -> str | None:
    """The first step of the write, read and delete check that failed, with the phone's own words."""
    for step, words in (
        ("write", f"cannot write to {WORK_DIR}"),
        ("read", f"what is written to {WORK_DIR} does not read back"),
        ("delete", f"cannot delete in {WORK_DIR}"),
    ):
        said = [line.strip() for line in sections.get(step, "").split("\n") if line.strip()]
        if not said or said[-1] != "ok":
            # "sh: can't create /data/…: No space left on device": only the last part means something.
            why = clean(said[0][-400:].rpartition(": ")[2]) if said else ""
            return f"{words}: {why}" if why else words
    return None if "end" in sections else "its answer was cut off"
