"""All that the documentation tells somebody to do is done here: commands, Python, YAML, links."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from devicelab.files import cache_dir
from scripts.reference.commands import every_command
from tests.docs.blocks import KINDS, ROOT, Page, commands_in, pages, without_comment
from tests.docs.exceptions import EXCEPTIONS, FIRST, parse
from tests.docs.reader import Reader, fits
from tests.servers import ADB, run_server

PAGES = pages()
_RUNS = frozenset({"console", "python", "yaml"})


@pytest.fixture
def reader(tmp_path: Path, own_home: Path, image: Path) -> Iterator[Reader]:
    """Somebody with the repository's experiments, an ONNX graph of their own, and an adb server."""
    (own_home / ".android").mkdir(mode=0o700)
    with run_server(ADB, own_home) as server:
        environment = {"ANDROID_ADB_SERVER_PORT": str(server.port), "DEVICELAB_CACHE": str(cache_dir())}
        reader = Reader(tmp_path, environment)
        shutil.copytree(ROOT / "configs", reader.work / "configs")
        _write_graph(reader.work / "model.onnx")
        yield reader
        reader.run("devicelab virtual down")


def _write_graph(path: Path) -> None:
    """Some ONNX graph with a float input `x` of three numbers."""
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Exp", ["x"], ["y"])],
        "exp",
        [value("x", TensorProto.FLOAT, [1, 3])],
        [value("y", TensorProto.FLOAT, [1, 3])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    onnx.save(made, path)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if _RUNS & {block.kind for block in page.blocks()}],
    ids=lambda page: page.name,
)
def test_what_a_page_says_can_be_done(page: Page, reader: Reader) -> None:
    for command in FIRST.get(page.name, ()):
        reader.run(command)
    reader.read(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Page) -> None:
    unknown = {f"{page.name}:{block.line}": block.kind for block in page.blocks() if block.kind not in KINDS}
    assert not unknown, f"one of {sorted(KINDS)}, please: what is not known is not tried"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    anchors = {each.path: each.anchors() for each in PAGES}
    broken = []
    for link in page.links():
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        if not path.exists() or (anchor and anchor not in anchors.get(path, set())):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_options_and_files_in_the_text_exist(page: Page) -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "scripts").rglob("*") if _is_text(path))
    options = {option for _, command in every_command() for each in command.params for option in each.opts}
    for span in page.spans():
        if span.startswith("devicelab ") and not span.endswith("…"):
            parse(span.split())
        elif re.fullmatch(r"--[a-z][a-z-]*( .*)?", span):
            option = span.split()[0]
            assert option in options or f'"{option}"' in scripts or option == "--help", f"{page.name}: {span}"
        elif re.fullmatch(r"(configs|devicelab|docs|scripts|tests)/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{page.name}: {span}"


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix in {"", ".py"}


def test_no_exception_is_left_over() -> None:
    told = {
        command
        for page in PAGES
        for block in page.blocks()
        if block.kind == "console"
        for command in commands_in(block)
    }
    assert set(EXCEPTIONS) <= told
    assert set(FIRST) <= {page.name for page in PAGES}


def test_an_exception_runs_the_same_command_or_none() -> None:
    for command, how in EXCEPTIONS.items():
        assert how.why
        assert how.run is None or how.run.split()[:2] == command.split()[:2], command


def _page(tmp_path: Path, text: str) -> Page:
    return Page(tmp_path / "page.md", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```console\ndevicelab no-such-command\n```\n", "page.md:1: `devicelab no-such-command` ended with 2"),
        ("Hello.\n\n```console\n$ true\n```\n", "page.md:3: a console block holds commands without"),
        ("```console\necho one\n```\n\n```text\ntwo\n```\n", "the page shows\ntwo"),
        ("```python\nraise SystemExit(3)\n```\n", "page.md:1: `python line1.py` ended with 3"),
        ("```yaml lab\ngates: {strict: maybe}\n```\n", "gates.strict"),
        ("```yaml\nround: {rounds: 1, quorum: 2}\n```\n", "round.quorum"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(tmp_path: Path, own_home: Path, text: str, words: str) -> None:
    with pytest.raises(Exception, match=re.escape(words)):
        Reader(tmp_path, {}).read(_page(tmp_path, text))


def test_blocks_are_found(tmp_path: Path) -> None:
    text = "```console\na \\\n  b   # why\n# nothing\nc '#1'\n```\n\n```text\nsaid\n```\n"
    text += "and\n```yaml lab\n# x.yaml\n```\n"
    console, shown, settings = _page(tmp_path, text).blocks()
    assert commands_in(console) == ["a    b", "c '#1'"]
    assert (shown.line, shown.follows, settings.follows) == (8, True, False)
    assert (settings.kind, settings.form, settings.file) == ("yaml", "lab", "x.yaml")


@pytest.mark.parametrize(
    ("line", "command"),
    [("a b", "a b"), ("a #b", "a"), ("a '# b' # c", "a '# b'"), ("# a", ""), ("a#b", "a#b")],
)
def test_comments_are_no_part_of_a_command(line: str, command: str) -> None:
    assert without_comment(line) == command


def test_output_may_be_wrapped_and_abridged() -> None:
    assert fits("A  B\n127.0.0.1:6100 x y z\n", "A B 127.0.0.1:7\n x … z\n")
    assert not fits("A\n", "A B\n")


def test_headings_have_the_anchors_of_github(tmp_path: Path) -> None:
    page = _page(tmp_path, "# A `b` (c: d)\n## A `b` (c: d)\n```text\n# no\n```\n")
    assert page.anchors() == {"a-b-c-d", "a-b-c-d-1"}
