"""The layers: explorer → engine → kernels, never back, and heavy libraries only in the file that needs them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("explorer", "engine", "kernels")  # top to bottom
MAY_IMPORT = {"explorer": {"explorer", "engine"}, "engine": {"engine", "kernels"}, "kernels": {"kernels"}}
AT_HOME = {  # heavy library -> the files that may import it anywhere, and at module level
    "transformers": {"engine/text_gemma.py"},
    "diffusers": {"engine/text_ltx2.py", "engine/instruction.py"},
    "pygame": {
        f"explorer/{name}.py"
        for name in (
            *("window", "gamepad", "cockpit", "display", "gallery", "hud", "paint"),
            *("opengl", "preview", "startup", "strip", "wording"),
        )
    }
    | {f"explorer/kiosk/{name}.py" for name in ("window", "show", "screens", "cards", "board")},
    "moderngl": {"explorer/display.py", "explorer/opengl.py", "explorer/redraw.py"},
    "av": {"explorer/recorder.py", "explorer/encode.py", "explorer/splice.py"},
    "websockets": {"explorer/broadcast.py", "explorer/web.py"},
}
KERNELS_MAY_USE = {
    "__future__",
    "collections",
    "dataclasses",
    "functools",
    "importlib",
    "kernels",
    "math",
    "os",
    "shutil",
    "torch",
    "triton",
    "typing",
}
FILES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))


def imports(path: Path, *, module_level: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; at module level: what runs when it is imported, `if` and `try` included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        match node:
            case ast.Import():
                yield from (a.name for a in node.names)
            case ast.ImportFrom():
                assert node.level == 0, f"{path}: relative import; write the full name"
                yield str(node.module)
                if node.module in LAYERS:
                    yield from (f"{node.module}.{a.name}" for a in node.names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if module_level:
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) if module_level:
                stack += node.orelse
                continue
        stack += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_down_and_heavy_ones_stay_at_home(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    layer = name.split("/")[0]
    for imported in imports(path):
        top = imported.split(".")[0]
        assert top not in LAYERS or top in MAY_IMPORT[layer], (
            f"{name} imports {imported}: that points up or skips"
        )
        assert top != "tests", f"{name} imports {imported}: the program does not know its tests"
        if layer == "kernels":
            assert top in KERNELS_MAY_USE, f"{name} imports {imported}: kernels know tensors only"
        if top in AT_HOME:
            assert name in AT_HOME[top], f"{name} imports {imported}: only {AT_HOME[top] or 'nobody'} may"


def test_the_command_line_loads_nothing_heavy() -> None:
    """`explorer --help`, and a machine without a display, must not need a window library."""
    code = "import sys, explorer.app; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not {"pygame", "moderngl", "triton", "transformers", "diffusers"} & set(loaded.split())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_triton_is_never_imported_with_the_module(path: Path) -> None:
    assert not [m for m in imports(path, module_level=True) if m.split(".")[0] == "triton"]


def test_kernels_is_a_namespace() -> None:
    """`kernels` on PyPI would clash with an `__init__.py` here."""
    assert not list((ROOT / "kernels").rglob("__init__.py"))


def test_no_utils() -> None:
    assert not [p for p in FILES if p.stem in {"utils", "util", "helpers", "common", "misc"}]


def test_this_test_sees_a_wrong_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("if True:\n    import triton.language as tl\ndef f():\n    from explorer import app\n")
    assert set(imports(file, module_level=True)) == {"triton.language"}
    assert set(imports(file)) == {"triton.language", "explorer", "explorer.app"}
