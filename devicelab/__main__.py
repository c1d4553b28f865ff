"""The ``devicelab`` program, also as ``python -m devicelab``. Imports nothing before it can be interrupted."""

import gc
import sys
from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130  # devicelab.errors.EXIT_INTERRUPTED
_GARBAGE = (
    20_000  # objects; importing makes many that stay, and looking through them each 700 takes a tenth of it
)


def main() -> NoReturn:
    """Run a command; Ctrl-C ends it quietly, from the first import on."""
    gc.set_threshold(_GARBAGE)
    try:
        from devicelab.cli import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
