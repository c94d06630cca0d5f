"""The layers of docs/design: a package imports only from packages further down."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "berth"
LEVEL = {
    "cli": 7, "api": 6, "engine": 5, "build": 4, "registry": 4, "runtime": 3, "store": 3, "network": 3, "linux": 2, "http": 2,
    "oci": 1, "models": 1, "errors": 0, "__init__": -1,
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))
ENGINE_MAIN = ROOT / "cli" / "engine_main.py"


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int]]:
    """Modules that a file imports, wherever in it, as absolute names, with their lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            module = node.module or ""
            found += [(f"{module}.{alias.name}" if module == "berth" else module, node.lineno) for alias in node.names]
    return found


def upward(path: Path) -> list[str]:
    own = package_of(path)
    wrong = []
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] != "berth" or own == "__init__":
            continue
        other = parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"
        if other != own and LEVEL[other] >= LEVEL[own]:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} (level {LEVEL[own]}) imports {other} ({LEVEL[other]})")
    return wrong


def test_every_package_has_a_level() -> None:
    assert FILES
    assert {package_of(path) for path in FILES} <= set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    assert upward(path) == []


def test_the_check_sees_a_sibling_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    bad = tmp_path / "store" / "bad.py"
    bad.write_text("def f():\n    from berth.runtime import plan\n    from berth import api\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert [line.split(": ")[1] for line in upward(bad)] == [
        "store (level 3) imports runtime (3)", "store (level 3) imports api (6)",
    ]  # fmt: skip


def test_only_one_module_speaks_to_the_kernel() -> None:
    using = {path.relative_to(ROOT).as_posix() for path in FILES for name, _ in imports(path) if name.split(".")[0] == "ctypes"}
    assert using == {"linux/libc.py"}


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if package_of(p) in ("runtime", "linux", "cli", "oci", "errors") and p != ENGINE_MAIN],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_launcher_and_the_command_line_need_only_the_standard_library(path: Path) -> None:
    # `python -I -S` has no site-packages.
    allowed = {*sys.stdlib_module_names, "berth"}
    assert [(name, line) for name, line in imports(path) if name.split(".")[0] not in allowed] == []


def test_an_engine_that_starts_imports_no_builder() -> None:
    """The first build pays for it."""
    code = "import sys, berth.api.server; print(*sorted(name for name in sys.modules if name.startswith('berth.build')))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT.parent)}, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_nothing_below_the_command_line_ends_the_process() -> None:
    wrong = []
    for path in FILES:
        if package_of(path) == "cli" or path.name == "launcher.py":  # the launcher is a program of its own
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Attribute) and node.attr == "exit" and isinstance(node.value, ast.Name) and node.value.id == "sys":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_modules_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by their base name: two of one name end a whole run before it begins."""
    names = [path.name for path in Path(__file__).parents[1].rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
