"""Workflows, action and shell scripts are what they should be, as far as that can be seen without GitHub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "devicelab" / "action.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
OURS = "./.github/actions/devicelab"
_BIN = Path(sys.executable).parent
_STEP = {"id", "name", "if", "uses", "with", "run", "shell", "env", "working-directory", "continue-on-error"}
_INPUT = re.compile(r"inputs\.([a-z-]+)")


class _Words(yaml.SafeLoader):
    """YAML in which ``on`` is a word, as GitHub reads it."""


_Words.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(text: str) -> Any:
    return yaml.load(text, _Words)


def actionlint(directory: Path) -> str:
    """What actionlint says of a repository's workflows; ShellCheck looks at what they run."""
    environment = {**os.environ, "PATH": f"{_BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [_BIN / "actionlint", "-no-color", "-shellcheck", _BIN / "shellcheck", "-pyflakes", ""],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=directory,
        env=environment,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def repository(directory: Path, workflow: str) -> Path:
    """A repository with one workflow and our action."""
    (directory / ".git").mkdir(parents=True)
    (directory / ".github" / "workflows").mkdir(parents=True)
    (directory / ".github" / "workflows" / "one.yml").write_text(workflow)
    place = directory / OURS
    place.mkdir(parents=True)
    (place / "action.yml").write_text(ACTION.read_text())
    return directory


@pytest.fixture(scope="module")
def action() -> Any:
    return load(ACTION.read_text())


def test_actionlint_has_nothing_to_say(tmp_path: Path) -> None:
    for workflow in WORKFLOWS:
        assert actionlint(repository(tmp_path / workflow.stem, workflow.read_text())) == ""


def test_actionlint_would_say_something(tmp_path: Path) -> None:
    text = (ROOT / ".github" / "workflows" / "emulators.yml").read_text()
    for number, (right, wrong, words) in enumerate(
        [
            ("api-level: ${{ matrix.api }}", "api: ${{ matrix.api }}", 'input "api" is not defined'),
            ("matrix.target", "matrix.image", 'property "image" is not defined'),
            ('>>"$GITHUB_OUTPUT"', ">>$GITHUB_OUTPUT", "shellcheck reported issue"),
        ]
    ):
        assert right in text
        assert words in actionlint(repository(tmp_path / str(number), text.replace(right, wrong)))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_little_and_end(path: Path) -> None:
    workflow = load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert int(job["timeout-minutes"]) <= 90
        assert job["runs-on"] == "ubuntu-24.04"  # a machine that stays the same
        assert "permissions" not in job
        for step in job["steps"]:
            assert_pinned(step)


def assert_pinned(step: Any) -> None:
    uses = step.get("uses", OURS)
    assert uses == OURS or re.fullmatch(r"[\w.-]+(/[\w.-]+)+@v\d+(\.\d+)*", uses), uses


class TestAction:
    def test_its_shape(self, action: Any) -> None:
        assert set(action) == {"name", "description", "inputs", "runs"}
        assert set(action["runs"]) == {"using", "steps"}
        assert action["runs"]["using"] == "composite"
        for name, each in action["inputs"].items():
            assert set(each) in ({"description", "required"}, {"description", "default"}), name
            assert isinstance(each.get("default", ""), str), name
        for step in action["runs"]["steps"]:
            assert set(step) <= _STEP  # a composite step knows no timeout-minutes
            assert ("run" in step) != ("uses" in step)
            assert ("run" in step) == ("shell" in step)
            assert_pinned(step)

    def test_every_input_is_used_and_there(self, action: Any) -> None:
        assert set(_INPUT.findall(str(action["runs"]))) == set(action["inputs"])

    def test_what_people_give_never_becomes_part_of_a_script(self, action: Any) -> None:
        for step in action["runs"]["steps"]:
            assert "${{" not in step.get("run", "") + step.get("with", {}).get("script", "")

    def test_the_snapshot_is_that_of_the_emulator(self, action: Any) -> None:
        made, used = (
            {key: value for key, value in step["with"].items() if key in {"api-level", "target", "arch"}}
            | {key: step["with"][key] for key in ("ram-size", "disk-size", "force-avd-creation")}
            for step in action["runs"]["steps"]
            if "android-emulator-runner" in step.get("uses", "")
        )
        assert made == used

    def test_actionlint_has_nothing_to_say_of_its_steps(self, action: Any, tmp_path: Path) -> None:
        workflow = {
            "on": {"workflow_call": {"inputs": {n: {"type": "string"} for n in action["inputs"]}}},
            "jobs": {"steps": {"runs-on": "ubuntu-24.04", "steps": action["runs"]["steps"]}},
        }
        text = yaml.safe_dump(workflow, sort_keys=False)
        assert actionlint(repository(tmp_path / "good", text)) == ""
        wrong = text.replace("force-avd-creation", "force-creation", 1)
        assert 'input "force-creation" is not defined' in actionlint(repository(tmp_path / "wrong", wrong))

    def test_the_scripts_command_line_is_understood(self, action: Any, tmp_path: Path) -> None:
        (train,) = (s for s in action["runs"]["steps"] if "SCRIPT" in s.get("env", {}))
        assert "\n" not in train["with"]["script"].strip()  # each line would be a shell of its own
        assert train["env"]["SCRIPT"] == "${{ github.action_path }}/../../../scripts/ci/emulator"
        script = (ACTION.parent / "../../../scripts/ci/emulator").resolve()
        for rounds in ("", "3"):
            said = tmp_path / "said"
            stub = tmp_path / "python"
            stub.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each" >>"$SAID"; done\n')
            stub.chmod(0o755)
            given = {"PYTHON": stub, "SCRIPT": script, "EXPERIMENT": "my plan.yaml", "EXPECT": "a>=1 b<2"}
            given |= {"ROUNDS": rounds, "TOLERANCE": "0.001", "PHONE": "sdk=34,abi=x86_64", "SAID": said}
            assert set(train["env"]) - {"DEVICELAB_CACHE", "DEVICELAB_HOME"} == set(given) - {"SAID"}
            said.unlink(missing_ok=True)
            subprocess.run(
                ["sh", "-c", train["with"]["script"]],
                env={name: str(value) for name, value in given.items()},
                check=True,
                timeout=60,
            )
            words = said.read_text().splitlines()
            assert words[:6] == [
                str(script), "my plan.yaml", "--device", "sdk=34,abi=x86_64", "--expect", "a>=1 b<2"
            ]  # fmt: skip
            assert words[6:] == ["--tolerance", "0.001", *(["--rounds", "3"] if rounds else [])]
            usage = subprocess.check_output([sys.executable, script, "-h"], text=True, timeout=60)
            known = set(re.findall(r"--[\w-]+", usage))
            assert {word for word in words if word.startswith("--")} <= known


class TestDocs:
    text = (ROOT / "docs" / "ci.md").read_text()

    def test_ten_lines_are_a_workflow(self, action: Any, tmp_path: Path) -> None:
        (snippet,) = re.findall(r"```yaml\n(.*?)```", self.text, re.DOTALL)
        assert len(snippet.splitlines()) == 10
        assert actionlint(repository(tmp_path / "theirs", snippet)) == ""
        # the same with the action in reach, so that actionlint knows its inputs
        uses = re.compile(r"OWNER/devicelab/\.github/actions/devicelab@v\S+")
        assert len(uses.findall(snippet)) == 1
        assert actionlint(repository(tmp_path / "ours", uses.sub(OURS, snippet))) == ""
        (job,) = load(snippet)["jobs"].values()
        assert set(job["steps"][-1]["with"]) <= set(action["inputs"])

    def test_every_input_is_told(self, action: Any) -> None:
        (table,) = re.findall(r"\| input \| default \|.*?\n\n", self.text, re.DOTALL)
        rows = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in table.splitlines()[2:] if row]
        assert [name for row in rows for name in row] == list(action["inputs"])

    def test_files_that_are_named_are_there(self) -> None:
        (table,) = re.findall(r"\| file \|.*?\n\n", self.text, re.DOTALL)
        for name in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE):
            assert (ROOT / name).exists(), name


def _shell_scripts() -> list[Path]:
    found = [path for place in ("scripts", ".ci") for path in (ROOT / place).rglob("*") if path.is_file()]
    return [path for path in found if re.match(rb"#!.*\b(ba)?sh\b", path.read_bytes()[:80])]


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = _shell_scripts()
    assert {path.name for path in scripts} >= {"demo", "setup", "test", "run"}
    done = subprocess.run(
        [_BIN / "shellcheck", *scripts], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
