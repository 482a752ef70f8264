"""Who imports whom: the package in one direction, and the tools' own parts above it.

Imports are read, not run, so that those inside functions count as well.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"

# From below: a module imports what stands in its own line or in one above it. The
# longest name that begins a module's says which is its line.
ORDER = (
    (
        "setformer_mm.version",
        "setformer_mm.utils.errors",
        "setformer_mm.utils.installed",
        "setformer_mm.utils.logs",
        "setformer_mm.utils.spelling",
    ),
    ("setformer_mm.ops",),
    ("setformer_mm.models",),
    ("setformer_mm.utils", "setformer_mm.optim", "setformer_mm.data"),
    ("setformer_mm.hooks",),
    ("setformer_mm",),
    ("toolkit",),
)
# Of a tool.
MOST_LINES = 310
LEVELS = {name: level for level, names in enumerate(ORDER) for name in names}


def modules_in(folder: Path) -> dict[str, Path]:
    """The modules of a package by their names, the package's own included."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        if ".mim" not in parts:
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


MODULES = modules_in(ROOT / "setformer_mm") | modules_in(TOOLS / "toolkit")
SCRIPTS = {path.stem for path in TOOLS.glob("*.py")}


def imports(name: str, path: Path) -> Iterator[str]:
    """Absolute names of what a module imports: modules, or names of their contents."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            parts = [*parts, *filter(None, [node.module])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def imported_modules(name: str, path: Path) -> set[str]:
    """Those of :data:`MODULES` that a module imports."""
    found = set()
    for imported in imports(name, path):
        while imported and imported not in MODULES:
            imported = imported.rpartition(".")[0]
        found.add(imported)
    return found - {"", name}


def level(name: str) -> int:
    while name not in LEVELS:
        name = name.rpartition(".")[0]
    return LEVELS[name]


GRAPH = {name: imported_modules(name, path) for name, path in MODULES.items()}


def test_imports_are_read_as_python_reads_them(tmp_path):
    path = tmp_path / "b.py"
    path.write_text("from . import c\nfrom ..d import e\ndef f():\n    import g.h\n")
    assert set(imports("a.x.b", path)) == {"a.x.c", "a.d.e", "g.h"}
    path = path.rename(tmp_path / "__init__.py")
    assert set(imports("a.x", path)) == {"a.x.c", "a.d.e", "g.h"}
    assert {"setformer_mm.ops.extension"} < GRAPH["setformer_mm.ops.backends"]


def test_no_import_runs_upward():
    upward = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if level(other) > level(name)
    ]
    assert upward == []


def test_no_imports_in_a_circle():
    assert list(TopologicalSorter(GRAPH).static_order())  # raises CycleError


def test_no_module_imports_a_script():
    """Nor does the package import from the tools, under whatever name."""
    faults = []
    for name, path in MODULES.items():
        above = (SCRIPTS - {"test"}) | {"tools"}
        above |= {"toolkit"} if name.startswith("setformer_mm") else set()
        roots = {imported.partition(".")[0] for imported in imports(name, path)}
        faults += [f"{name} imports {other}" for other in roots & above]
    assert faults == []


def test_tools_are_commands_of_a_page_or_two():
    """What a tool does beyond its command is the toolkit's, where it has tests."""
    lengths = {
        path.name: path.read_text("utf-8").count("\n") for path in TOOLS.glob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_the_package_has_no_file_of_more_than_its_share():
    package = {n: p for n, p in MODULES.items() if n.startswith("setformer_mm")}
    lengths = {n: p.read_text("utf-8").count("\n") for n, p in package.items()}
    assert {n for n, length in lengths.items() if length > 450} == set()
