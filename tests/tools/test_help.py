"""Flags are read before the imports that take seconds, in every tool."""

import json
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SLOW = ("torch", "mmengine", "setformer_mm", "numpy", "matplotlib", "sklearn", "timm")
# All tools in one process: what one imports, the next would only have more of.
SCRIPT = """
import contextlib, io, json, runpy, sys
found = {}
for path in PATHS:
    sys.argv = [path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            found[path] = [end.code, "usage:" in out.getvalue()]
    found[path].append([name for name in SLOW if name in sys.modules])
print(json.dumps(found))
"""


def test_help_imports_nothing_slow():
    paths = sorted(map(str, TOOLS.glob("*.py")))
    assert len(paths) > 15
    code = f"PATHS = {paths!r}\nSLOW = {SLOW!r}\n{SCRIPT}"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(TOOLS), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == dict.fromkeys(paths, [0, True, []])
