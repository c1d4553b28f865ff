"""Reads a page the way a strict reader would: every tag closed, every text where it was put."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "input", "hr"}


@dataclass
class Element:
    """A tag with what is in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def all(self, tag: str = "", style: str = "") -> list[Element]:
        """Everything inside, of one tag, of one class."""
        found = []
        for child in self.children:
            if tag in {"", child.tag} and (not style or style in child.attributes.get("class", "").split()):
                found.append(child)
            found += child.all(tag, style)
        return found


class Page(HTMLParser):
    """A page as a tree; raises AssertionError where it is not well-formed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(html)
        self.close()
        assert self._open == [self.root], f"never closed: {[each.tag for each in self._open[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> says something twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.texts.append(data)

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """All tags in order with the names of their attributes: what text can never change."""
        return [(each.tag, tuple(each.attributes)) for each in self.root.all()]

    def section(self, name: str) -> Element:
        [found] = [each for each in self.root.all("section") if each.attributes["id"] == name]
        return found

    def table(self, section: str) -> list[list[str]]:
        """The rows of a section's only table."""
        [table] = self.section(section).all("table")
        return [[cell.text for cell in row.children] for row in table.all("tr")]
