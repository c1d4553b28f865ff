"""``python -m devicelab.virtual.pyadbd``: serve a directory as a phone, for a body or by hand.

By hand: ``--root DIRECTORY --port PORT``, on 127.0.0.1, until interrupted. A body says where to make a Unix
socket (``--socket PATH``) and gives a pipe as standard input, whose end is the phone's end; the process then is
the phone's first one (:mod:`devicelab.virtual.family`) and the adbd its child.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from devicelab.virtual import family, kernel
from devicelab.virtual.ownpython import hear_signals
from devicelab.virtual.packets import MAX_PAYLOAD, VERSION_NO_CHECKSUMS
from devicelab.virtual.pyadbd.server import FEATURES, Server, python_banner
from devicelab.virtual.pyadbd.tree import Tree
from devicelab.virtual.unixsocket import listen_at

__all__ = ["main"]

_DEFAULT_BANNER = f"device::ro.product.model=Python;features={','.join(sorted(FEATURES))}"


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pyadbd", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="what the phone calls /")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="listen here on 127.0.0.1")
    where.add_argument("--socket", type=Path, help="listen on a Unix socket here, and live as long as stdin")
    parser.add_argument("--limit", type=Path, help="a file with the size of /data in bytes")
    parser.add_argument("--banner", default=_DEFAULT_BANNER)
    parser.add_argument("--version", type=lambda text: int(text, 0), default=VERSION_NO_CHECKSUMS)
    parser.add_argument("--max-payload", type=int, default=MAX_PAYLOAD)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Serve until the listener or standard input ends."""
    options = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="pyadbd: %(message)s", stream=sys.stderr)
    if options.socket is None:
        with socket.create_server(("127.0.0.1", options.port)) as listener:
            logging.info("%s on 127.0.0.1:%d", options.root, listener.getsockname()[1])
            with contextlib.suppress(KeyboardInterrupt):
                _serve(options, listener)
        return 0
    kernel.adopt_orphans()
    child = os.fork()
    if child:
        return family.tend(child)
    hear_signals()  # and so do the commands
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    with listen_at(options.socket) as listener:
        _serve(options, listener)
    return 0


def _serve(options: argparse.Namespace, listener: socket.socket) -> None:
    tree = Tree(options.root.resolve(), options.limit)
    os.chdir(tree.root)
    # However the root is spelt, its commands see it under a name without blanks or quotes.
    alias = f"/proc/{os.getpid()}/cwd"
    banner = python_banner(options.banner)
    Server(tree, alias, banner, options.version, options.max_payload).serve(listener)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
