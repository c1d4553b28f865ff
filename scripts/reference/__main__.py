"""Write the generated parts of docs/ anew."""

from __future__ import annotations

from pathlib import Path

from devicelab.files import write_atomically
from scripts.reference.pages import PAGES, filled

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    for name in PAGES:
        path = DOCS / name
        old = path.read_text(encoding="utf-8")
        new = filled(name, old)
        if new != old:
            write_atomically(path, new.encode())
        print(f"{'wrote' if new != old else 'fine '} {path.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
