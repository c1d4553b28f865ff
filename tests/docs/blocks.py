"""Fenced blocks, code spans, links and headings of a Markdown page."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from scripts.reference.markdown import slug

__all__ = ["KINDS", "Block", "Page", "commands_in", "pages", "without_comment"]

ROOT = Path(__file__).parents[2]
KINDS = frozenset({"console", "json", "python", "text", "yaml"})
_FENCE = re.compile(r"^```(.*)$")
_COMMENT = re.compile(r"(^|\s)#.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: The number of its first line, for messages.
        kind: The first word behind the fence.
        form: The second, which says what a kind does not: ``yaml lab``.
        text: What is in it.
        follows: Whether nothing stands between it and the block before it.
    """

    line: int
    kind: str
    form: str
    text: str
    follows: bool

    @property
    def file(self) -> str | None:
        """The file that it is to be saved as, which its first line names in a comment: ``# things.yaml``."""
        found = re.match(r"# ([\w./-]+\.(?:py|yaml|csv))\b", self.text)
        return found[1] if found else None


@dataclass(frozen=True)
class Page:
    """A page, taken apart."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else self.path.name

    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        found: list[Block] = []
        opened: tuple[int, str] | None = None
        inside: list[str] = []
        between = True
        for number, line in enumerate(self.text.splitlines(), start=1):
            fence = _FENCE.match(line)
            if opened is None and fence:
                opened, inside = (number, fence[1].strip()), []
            elif opened is not None and fence:
                kind, _, form = opened[1].partition(" ")
                found.append(Block(opened[0], kind, form, "\n".join(inside) + "\n", not between))
                opened, between = None, False
            elif opened is not None:
                inside.append(line)
            elif line.strip():
                between = True
        assert opened is None, f"{self.name}:{opened}: a block without an end"
        return found

    def prose(self) -> str:
        """The page without its fenced blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    def spans(self) -> list[str]:
        """Code in the running text."""
        return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", self.prose())]

    def links(self) -> list[str]:
        """Where it links to."""
        return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", self.prose()))

    def anchors(self) -> set[str]:
        """Where it can be linked to; a heading that occurs again is counted, as GitHub does."""
        found: dict[str, int] = {}
        for heading in re.findall(r"^#+ (.+)$", self.prose(), flags=re.MULTILINE):
            name = slug(heading)
            found[name] = found.get(name, -1) + 1
        return {f"{name}-{n}" if n else name for name, last in found.items() for n in range(last + 1)}


def pages() -> list[Page]:
    """README and all other pages."""
    paths = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    return [Page(path, path.read_text(encoding="utf-8")) for path in paths]


def without_comment(line: str) -> str:
    """A command line without what stands behind ``#``; one within quotes is no comment."""
    for found in _COMMENT.finditer(line):
        try:
            shlex.split(line[: found.start()])
        except ValueError:
            continue  # within quotes
        return line[: found.start()].strip()
    return line.strip()


def commands_in(block: Block) -> list[str]:
    """The command lines of a console block; a backslash at the end goes on with the next."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := without_comment(line))]
