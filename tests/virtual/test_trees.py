from __future__ import annotations

import threading
from pathlib import Path

from devicelab.virtual.trees import remove_tree


def test_forbidden_directories_go(tmp_path: Path) -> None:
    tree = tmp_path / "phone"
    (tree / "dev/pts/deep").mkdir(parents=True)
    (tree / "dev/pts/deep/file").touch()
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    (tree / "link").symlink_to(outside)
    for path in (tree / "dev/pts/deep", tree / "dev/pts"):
        path.chmod(0)

    remove_tree(tree)

    assert not tree.exists()
    assert outside.stat().st_mode & 0o777 == 0o500
    remove_tree(tree)


def test_a_last_writer_does_not_stop_it(tmp_path: Path) -> None:
    tree = tmp_path / "phone"
    (tree / "data").mkdir(parents=True)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set() and number < 20_000:
            number += 1
            try:
                (tree / "data" / str(number)).touch()
            except FileNotFoundError:
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        remove_tree(tree)
    finally:
        stop.set()
        writer.join()
    assert not tree.exists()
