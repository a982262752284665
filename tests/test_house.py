"""The house holds: imports run one way, Keras stays where it is needed, pages show every room."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "roco_caption"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
NOTEBOOK = ROOT / "notebooks" / "roco_captioning.ipynb"
README = (ROOT / "README.md").read_text("utf-8")
TREE = (ROOT / "docs" / "modules.md").read_text("utf-8")


def tree() -> dict[str, str]:
    """Return the modules of the page's tree in its order, with what it says of them."""
    block = re.search(r"```text\n(.*?)```", TREE, re.S).group(1)
    rows = re.findall(r"^ +(\w+)\.py +(.+)$", block, re.M)
    return {name: text.strip() for name, text in rows if name in MODULES}


def imported(source: str, modules: list[str]) -> set[str]:
    """Return the package's modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (
            node.level or "roco_caption" in (node.module or "")
        ):
            parts = (node.module or "").removeprefix("roco_caption").strip(".")
            found |= {parts} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                a.name.split(".")[1] for a in node.names if a.name.startswith("roco_caption.")
            }
    return found & set(modules)


def upward(order: list[str], sources: dict[str, str]) -> list[str]:
    """Return the imports that go against the order."""
    return [
        f"{name} imports {other}"
        for name in order
        for other in sorted(imported(sources[name], order))
        if order.index(other) >= order.index(name)
    ]


def test_imports_run_one_way_in_the_order_of_the_page():
    order = list(tree())
    assert sorted(order) == MODULES
    assert (
        upward(order, {name: (PACKAGE / f"{name}.py").read_text("utf-8") for name in order}) == []
    )


def test_the_test_of_imports_can_fail():
    sources = {"files": "from .text import clean", "text": "import roco_caption.files"}
    assert upward(["files", "text"], sources) == ["files imports text"]
    sources = {"files": "", "text": "def f():\n    from roco_caption import model", "model": ""}
    assert upward(["files", "text", "model"], sources) == ["text imports model"]


def test_the_page_says_of_each_module_what_its_docstring_says():
    for name, text in tree().items():
        docstring = ast.get_docstring(ast.parse((PACKAGE / f"{name}.py").read_text("utf-8")))
        assert " ".join(docstring.split("\n\n")[0].split()).rstrip(".") == text.rstrip("."), name


def test_the_readmes_tree_is_the_folder():
    block = re.search(r"```text\n(.*?)```", README, re.S).group(1)
    top = re.findall(r"^(\S+)", block, re.M)
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    wanted = {path.split("/")[0] for path in tracked} | {"README.md"}
    assert {name.rstrip("/") for name in top} == {name for name in wanted if name != ".gitignore"}


@pytest.mark.parametrize(
    "module",
    [
        "files",
        "sealed",
        "locks",
        "progress",
        "places",
        "dataset",
        "dicom",
        "images",
        "text",
        "batches",
        "evaluation",
        "baselines",
        "clinical",
    ],
)
def test_modules_that_need_no_keras_do_not_import_it(module):
    code = (
        f"import roco_caption.{module}, sys\n"
        "sys.exit(', '.join({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cells() -> list:
    return nbformat.read(NOTEBOOK, as_version=4).cells


def test_cells_are_short_define_nothing_and_hold_no_outputs():
    for cell in cells():
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 15, cell.source
            assert not re.search(r"^\s*(def|class) ", cell.source, re.M)
            assert not cell.outputs and cell.execution_count is None


def test_every_setting_has_its_reason_and_its_name_outside():
    lines = [
        line
        for cell in cells()
        for line in cell.source.splitlines()
        if re.match(r"[A-Z_]+ = setting\(", line)
    ]
    assert len(lines) > 20
    for line in lines:
        name = line.split(" = ")[0]
        assert f'setting("{name}", ' in line and re.search(r"\)  # \w+", line), line
        assert f"`{name}`" in README, f"{name} is not in the README"


def test_nothing_names_the_machine_that_it_was_made_on():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    odd = re.compile(r"/(work|opt|root)/")
    for path in filter(None, tracked):
        if (
            (ROOT / path).suffix != ".png"
            and not path.startswith(("tests/test_house.py", "tests/seeds/"))
            and (ROOT / path).exists()
        ):
            assert not odd.search((ROOT / path).read_text("utf-8")), path
