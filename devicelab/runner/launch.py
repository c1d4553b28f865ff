"""How a job is started, looked at and stopped on a phone: shell scripts for everything since Android 4.4.

The launcher of a job waits for its end, unless its cable is pulled, and prints then what a look would.

In a job's directory are ``pid`` (a process id and its process group), ``rc`` (the exit code, once it is there),
``log`` and ``err`` (what it printed). A process counts as the job's only while its command line names the job's
directory, so that a number that was given out anew harms nobody.

Detached, the job runs under a shell of its own that writes ``rc``; both are in a session of their own where the
phone has ``setsid``. Before Android 6 it has none: then they share the process group of adbd's shell, which is
gone by then, and ignore the hang-up that an old adbd's terminal sends (the runner leaves ignored signals
ignored). The scripts need no more than the mksh and toolbox of Android 4.4, and stay short because an adbd of
that time takes 4,096 bytes for a command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from devicelab.runner.job import Verb
from devicelab.runner.layout import job_directory

__all__ = [
    "BLOCK",
    "BUSY",
    "MOST",
    "STARTED",
    "Look",
    "attached_command",
    "detached_command",
    "errors_command",
    "finish_command",
    "look_command",
    "parse_look",
    "signal_command",
]

BLOCK: Final = 4096
"""The log is read from a multiple of so many bytes: dd, unlike tail, is on every phone."""

BUSY: Final = 69
"""Exit code of :func:`attached_command` where the job runs already."""

STARTED: Final = b"started"
"""The first line of a launcher that has started the job; how the job ended follows once it has."""

_CHUNK: Final = 256  # blocks that one look reads
MOST: Final = _CHUNK * BLOCK
"""Bytes of the log that one look brings, at most."""

_ERRORS: Final = 16  # blocks of err that matter

# $1 the job's directory. `alive PID`: whether that process is the job's. One that is just becoming another
# program has an empty command line for a moment, a dead one for ever.
_ALIVE: Final = (
    'alive(){ n=0;while :;do case "$(cat /proc/$1/cmdline)" in *"$d"*)return 0;;?*)return 1;;esac;'
    "[ -d /proc/$1 ]&&[ $n -lt 9 ]||return 1;n=$((n+1));done;};"
)
_BEGIN: Final = f'd=$1;cd "$d"||exit 66;exec 2>/dev/null;{_ALIVE}p=;read p g<pid;'
# $6 of the next two is the name that job.json has until it is started first, or nothing.
# mksh, the shell of every Android since 4, renames by itself: programs are what these scripts cost.
_PLACE: Final = '[ "$6" ]&&{ [ -f job.json ]&&rm -f "$6"||builtin rename "$6" job.json||mv "$6" job.json;};'
# A runner whose shell was killed leaves no rc; then all processes are asked. $2 is a pattern for its command
# line that does not match itself. grep fails where any process ends while it looks, so its word counts.
_RUNNING: Final = '[ "$p" -a ! -f rc ]&&{ alive $p||[ "$(grep -l "$2" /proc/[0-9]*/cmdline)" ];}'
_CLEAR: Final = "[ -f pid -o -f rc -o -f log -o -f err ]&&rm -f pid rc log err;"

_WRAPPER: Final = (
    'cd "$1";trap : TERM;LD_LIBRARY_PATH="$2" "$3" "$4" "$1/job.json" >log 2>err;'
    "echo $?>rc.part;builtin rename rc.part rc||mv rc.part rc"
)
# $3 engine directory, $4 runner, $5 verb, $7 the wrapper. A launcher that lost its cable goes on to its end,
# and "claim" keeps a second one out meanwhile.
_DETACHED: Final = (
    f"trap '' HUP;{_BEGIN}{_PLACE}{_RUNNING}&&{{ echo running;exit;}};"
    "claim(){ (set -C;echo $$>claim);};"
    "claim||{ q=;read q<claim;alive $q&&{ echo busy;exit;};rm -f claim;"
    "claim||{ [ -s claim ]&&echo busy||echo unwritable;exit;};};"
    f"{_CLEAR}"
    "s=setsid g=;command -v setsid>/dev/null||{ s=;read a b c e g f</proc/$$/stat;};"
    '$s sh -c "$7" job "$d" "$3" "$4" "$5"</dev/null >/dev/null 2>&1 &\n'
    f"p=$!;echo $p ${{g:-$p}}>pid;rm -f claim;echo {STARTED.decode()};"
    f"wait;c=;read c<rc;echo gone $c;dd if=log bs={BLOCK} count={_CHUNK}"
)
_ATTACHED: Final = (
    f"{_BEGIN}{_PLACE}{_RUNNING}&&exit {BUSY};"
    f"{_CLEAR}read a b c e g f</proc/$$/stat;echo $$ $g>pid;"
    'export LD_LIBRARY_PATH="$3";exec "$4" "$5" "$d/job.json" 2>err'
)
# $3 engine directory, $4 runner, $5 whether there is something to commit. What a commit says is asked of
# another one, as it may be repeated.
_FINISH: Final = (
    f'd=$1;exec 2>/dev/null;cd "$d"||{{ echo finished;exit;}};{_ALIVE}p=;read p g<pid;'
    f"{_RUNNING}&&{{ echo running;exit;}};"
    '[ "$5" ]&&{ LD_LIBRARY_PATH="$3" "$4" commit "$d/job.json" >/dev/null||{ echo uncommitted;exit;};};'
    'cd /;rm -rf "$d"||rm -rf "$d";[ -d "$d" ]&&echo left||echo finished'
)
# $2 blocks to skip, $3 blocks to read. The state is looked at before the log: a code comes with all of the log.
_LOOK: Final = (
    f'd=$1;cd "$d"||{{ echo absent;exit;}};exec 2>/dev/null;{_ALIVE}'
    'p=;read p g<pid;s=gone;[ "$p" ]&&alive $p&&s=running;'
    "c=;read c<rc;echo $s $c;dd if=log bs=4096 skip=$2 count=$3"
)
# $3 the signal. Both the group and a runner that was left alone.
_SIGNAL: Final = (
    f'{_BEGIN}[ "$p" ]||exit 0;alive $p&&kill -$3 -$g&&exit 0;[ -f rc ]&&exit 0;'
    'for f in $(grep -l "$2" /proc/[0-9]*/cmdline);do f=${f%/cmdline};kill -$3 ${f##*/};done;exit 0'
)


@dataclass(frozen=True, slots=True)
class Look:
    """A job at one moment.

    Attributes:
        state: ``running``, ``gone`` (not running; it may have left a code), ``absent`` (no directory).
        code: Its exit code, if it has ended by itself.
        log: What was read of its output.
    """

    state: Literal["running", "gone", "absent"]
    code: int | None
    log: bytes


def detached_command(job: str, engine: str, runner: str, verb: Verb, part: str = "") -> list[str]:
    """Start a job that outlives its cable.

    Prints ``running`` (it was), ``busy`` (somebody just starts it) or ``unwritable``; or :data:`STARTED`, and
    once the job has ended what :func:`look_command` prints.

    Args:
        job: Its id.
        engine: The directory that holds ``libonnxruntime.so``.
        runner: The program.
        verb: What to do.
        part: The name in the job's directory that ``job.json`` has until now; empty: its own.
    """
    return _script(_DETACHED, job, _pattern(job), engine, runner, verb, part, _WRAPPER)


def attached_command(
    job: str, engine: str, runner: str, verb: Verb | Literal["commit"], part: str = ""
) -> list[str]:
    """Become the job's runner, which ends with the stream; its lines are the output."""
    return _script(_ATTACHED, job, _pattern(job), engine, runner, verb, part)


def finish_command(job: str, engine: str, runner: str, *, commit: bool) -> list[str]:
    """Commit a job that has ended, if there is something to commit, and remove its directory.

    Prints ``finished`` (also where there is no directory), ``running``, ``uncommitted`` (the runner says no) or
    ``left`` (something cannot be removed).
    """
    return _script(_FINISH, job, _pattern(job), engine, runner, "commit" if commit else "")


def look_command(job: str, offset: int) -> list[str]:
    """Print the state and then the log from ``offset`` rounded down to a multiple of :data:`BLOCK`."""
    return _script(_LOOK, job, str(offset // BLOCK), str(_CHUNK))


def errors_command(job: str) -> list[str]:
    """Print the beginning of what the job said on its standard error."""
    return _script('cd "$1"&&dd if=err bs=4096 count=$2 2>/dev/null', job, str(_ERRORS))


def signal_command(job: str, signal: Literal["TERM", "KILL"]) -> list[str]:
    """Send a signal to all processes of a job, if there are any."""
    return _script(_SIGNAL, job, _pattern(job), signal)


def parse_look(output: bytes, offset: int) -> Look | None:
    """Read what :func:`look_command` printed; None if that is no such output.

    Args:
        output: All of it.
        offset: As it was given to :func:`look_command`; the log returned begins there.
    """
    line, newline, log = output.partition(b"\n")
    found = re.fullmatch(rb"(running|gone|absent) ?([0-9]{1,3})?\r?", line)
    if found is None or not newline:
        return None
    state = found[1].decode()
    assert state in ("running", "gone", "absent")
    return Look(state, int(found[2]) if found[2] else None, log[offset % BLOCK :])  # type: ignore[arg-type] # asserted


def _script(script: str, job: str, *arguments: str) -> list[str]:
    return ["sh", "-c", script, "sh", job_directory(job), *arguments]


def _pattern(job: str) -> str:
    """A regular expression for the runner's command line, which does not stand in grep's own."""
    return f"{job_directory(job)}/[j]ob.json".replace(".", "[.]")
