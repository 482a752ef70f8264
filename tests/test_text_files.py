"""Text files do not depend on the locale, and JSON files are JSON.

In an ASCII locale Python reads and writes ASCII unless told otherwise. Since 3.7 it
tells itself otherwise in the locale C, but not where PYTHONUTF8=0 or another ASCII
locale says no.
"""

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import setformer_mm
from toolkit.launch import run_tool

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("setformer_mm", "tools", "configs")
FILES = [ROOT / "setup.py", *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))]
FILES = [path for path in FILES if ".mim" not in path.parts]

# Where a call takes its mode and its encoding among the arguments.
OPENERS = {"open": (1, 3), "Path.open": (0, 2)}
OTHER_OPENERS = {
    "Image",
    "os",
    "zipfile",
    "tarfile",
    "webbrowser",
}  # modules; these open no text
READERS = {"read_text": 0, "write_text": 1}
ASCII_LOCALE = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


def argument(call: ast.Call, name: str, place: int) -> ast.expr | None:
    named = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return (named or [*call.args[place : place + 1], None])[0]


def opens_text_in_any_encoding(call: ast.Call) -> bool:
    function = call.func
    name = getattr(function, "attr", None) or getattr(function, "id", "")
    owner = getattr(getattr(function, "value", None), "id", "")
    if name in READERS:
        return argument(call, "encoding", READERS[name]) is None
    if name == "open" and owner not in OTHER_OPENERS:
        kind = "Path.open" if isinstance(function, ast.Attribute) else "open"
        mode = argument(call, "mode", OPENERS[kind][0])
        if isinstance(mode, ast.Constant) and "b" in mode.value:
            return False
        return argument(call, "encoding", OPENERS[kind][1]) is None
    keywords = {keyword.arg for keyword in call.keywords}
    return bool({"text", "universal_newlines"} & keywords) and owner == "subprocess"


def writes_foreign_json(call: ast.Call) -> bool:
    function = call.func
    if getattr(function, "attr", "") not in ("dump", "dumps"):
        return False
    strict = argument(call, "allow_nan", 99)
    return getattr(function.value, "id", "") == "json" and strict is None


def calls(text: str) -> Iterator[ast.Call]:
    nodes = ast.walk(ast.parse(text))
    return (node for node in nodes if isinstance(node, ast.Call))


@pytest.mark.parametrize(
    ("code", "is_wrong"),
    [
        ("open('a')", True),
        ("open('a', 'w')", True),
        ("open('a', mode='rb')", False),
        ("open('a', encoding='utf-8')", False),
        ("path.open()", True),
        ("path.open('wb')", False),
        ("Image.open(path)", False),
        ("os.open(path, 0)", False),
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text('a')", True),
        ("path.write_text('a', 'utf-8')", False),
        ("path.write_text('a', encoding='utf-8')", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, encoding='utf-8')", False),
        ("subprocess.run(command)", False),
    ],
)
def test_what_is_found(code, is_wrong):
    assert [opens_text_in_any_encoding(call) for call in calls(code)] == [is_wrong]


def test_text_files_have_an_encoding_and_json_no_nan():
    assert len(FILES) > 100
    faults = []
    for path in FILES:
        for call in calls(path.read_text("utf-8")):
            line = f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)[:80]}"
            if opens_text_in_any_encoding(call):
                faults.append(f"{line} lacks an encoding")
            # What results.py dumps is hashed, not read.
            if writes_foreign_json(call) and path.name != "results.py":
                faults.append(f"{line} lacks allow_nan=False")
    assert not faults, "\n".join(faults)


def test_setup_in_an_ascii_locale():
    process = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, **ASCII_LOCALE},
        capture_output=True,
    )
    assert process.returncode == 0, process.stderr.decode()
    assert process.stdout.decode().split()[-1] == setformer_mm.__version__


def test_signs_that_the_terminal_lacks(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, "ascii"))
    run_tool(lambda: print("−0.5 µm"))
    sys.stdout.flush()
    assert buffer.getvalue() == rb"\u22120.5 \xb5m" + b"\n"
