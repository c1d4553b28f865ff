"""``python -m devicelab.virtual.tryout``: make namespaces and mounts once; exit 1 and say why if not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from devicelab.virtual import holder
from devicelab.virtual.binfmt import emulation
from devicelab.virtual.spec import BodySpec

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Start a holder without a phone and let it try everything that the kernel could refuse.

    With ``arm64`` as an argument also what an emulated phone needs.
    """
    hook = emulation(Path(sys.executable)) if list(arguments) == ["arm64"] else None  # any program will do
    nothing = Path("/nonexistent")
    spec = BodySpec("try-out", nothing, None, None, nothing, "", 1 << 20, nothing)
    try:
        started = holder.start(spec, hook)
        started.channel.send({"try": True})
        answer, _ = started.channel.receive()
    except EOFError:
        sys.stdout.write("a process died while it made namespaces\n")
        return 1
    except OSError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    if "error" in answer:
        sys.stdout.write(f"{answer['error']}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
