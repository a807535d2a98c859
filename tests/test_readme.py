"""The README keeps its word: its Python runs as it stands, and its commands and options exist."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from ebapose.cli import VERBS, _group

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^\| `(ebapose [^`]+)`((?:, `[^`]+`)*)", README, flags=re.MULTILINE)


def test_there_is_something_to_test() -> None:
    assert len(SNIPPETS) >= 2
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_python_runs_as_it_stands(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(SNIPPETS[number], f"README.md, snippet {number}", "exec"), {"__name__": "__main__"})
    if number == 0:  # it finds the persons of the picture, and its comments are right
        assert capsys.readouterr().out.splitlines() == ["(2, 17, 2)", "(2, 17)", "(2, 17, 2)", "nose"]


@pytest.mark.parametrize(("command", "more"), COMMANDS, ids=lambda text: text.strip(", ") or "-")
def test_commands_of_the_table_exist(command: str, more: str) -> None:
    verb, *words = command.split()[1:]
    assert verb in VERBS
    function = VERBS[verb]
    group = _group(verb)
    if group is not None:
        for name in [words[0], *re.findall(r"`([^`]+)`", more)]:
            assert name in group
        function = group[words[0]]
    parameters = inspect.signature(function).parameters
    for option in re.findall(r"--([\w-]+)", command):
        assert option.replace("-", "_") in parameters


def test_every_command_anywhere_in_the_text_exists() -> None:
    named = set(re.findall(r"`(?:[^`\n]*&& )?ebapose ([a-z]+)", README)) | set(
        re.findall(r"&& ebapose ([a-z]+)", README)
    )
    assert {"predict", "models", "evaluate", "train", "export"} <= named
    assert named <= set(VERBS)
