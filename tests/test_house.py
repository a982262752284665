"""The house holds: rooms import one way, modules stay small, Keras loads only where needed."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "roco_caption"
ROOMS = [
    "core", "text", "data", "features", "decoder", "training", "scores", "search", "show",
    "settings", "pipeline", "scale", "__main__",
]  # fmt: skip
NOTEBOOK = ROOT / "notebooks" / "roco_captioning.ipynb"


def sources() -> dict[str, str]:
    """Return the text of every module by its dotted name, without `roco_caption`."""
    paths = sorted(PACKAGE.rglob("*.py"))
    names = [".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in paths]
    texts = [path.read_text("utf-8") for path in paths]
    return {name: text for name, text in zip(names, texts, strict=True) if name != "__init__"}


def imports(source: str, modules: set[str]) -> set[str]:
    """Return the package's modules that a source imports, inside functions as well.

    Imports for type checkers only are left out.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    names = {name.removeprefix("roco_caption.") for name in names if "roco_caption" in name}
    return {name for name in names if name in modules}


def graph(texts: dict[str, str]) -> dict[str, set[str]]:
    return {name: imports(text, set(texts)) - {name} for name, text in texts.items()}


def backward(texts: dict[str, str]) -> list[str]:
    """Return the imports of a room from a later room."""
    room = {name: ROOMS.index(name.split(".")[0]) for name in texts}
    return [
        f"{name} imports {other}"
        for name, others in graph(texts).items()
        for other in sorted(others)
        if room[other] > room[name]
    ]


def circle(texts: dict[str, str]) -> list[str]:
    """Return a circle of imports, empty if there is none."""
    try:
        TopologicalSorter(graph(texts)).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_there_are_ten_rooms_the_settings_and_the_pipeline():
    top = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert top - {"__init__"} == set(ROOMS)


def test_imports_between_rooms_run_one_way():
    assert backward(sources()) == []


def test_no_imports_go_in_a_circle():
    assert circle(sources()) == []


def test_an_import_turned_round_is_noticed():
    """The first test above fails once a module of an earlier room imports one of a later."""
    texts = sources()
    later = next(name for name in texts if name.startswith("search."))
    earlier = next(name for name, others in graph(texts).items() if name.startswith("core."))
    texts[earlier] += f"\n\ndef late():\n    from roco_caption.{later} import anything\n"
    assert f"{earlier} imports {later}" in backward(texts)


def test_a_circle_within_a_room_is_noticed():
    texts = sources()
    name, other = next(
        (n, o) for n, others in graph(texts).items() for o in others if n[:4] == o[:4]
    )
    texts[other] += f"\nimport roco_caption.{name}\n"
    assert {name, other} <= set(circle(texts))


def test_modules_and_functions_are_short():
    for name, text in sources().items():
        lines = text.splitlines()
        assert len(lines) <= (40 if name.endswith("__init__") else 300), name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = node.end_lineno - body[0].lineno + 1 if body else 0
                assert size <= 40, f"{name}.{node.name}: {size} lines"


def test_what_needs_no_keras_does_not_load_it():
    modules = [
        name for name in sources()
        if name.split(".")[0] in ("core", "text", "data", "scores") or name == "show.figures"
    ]  # fmt: skip
    # heat maps are read by the decoder's module
    modules = [name for name in modules if name != "scores.phantoms"]
    code = "import roco_caption, sys\nfrom roco_caption import __version__\n"
    code += "".join(f"import roco_caption.{name.removesuffix('.__init__')}\n" for name in modules)
    code += "sys.exit(', '.join({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)) or 0)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_module_is_on_the_page_of_rooms():
    page = (ROOT / "docs" / "modules.md").read_text("utf-8")
    for name in sources():
        assert name.split(".")[-1].replace("__init__", name.split(".")[0]) in page, name


def cells() -> list:
    return nbformat.read(NOTEBOOK, as_version=4).cells


def test_cells_are_short_define_nothing_and_hold_no_outputs():
    for cell in cells():
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 12, cell.source
            assert not re.search(r"^\s*(def|class) ", cell.source, re.M)
            assert not cell.outputs and cell.execution_count is None


def test_settings_are_few_and_each_has_its_reason():
    lines = [
        line
        for cell in cells()
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
        if re.match(r"[A-Z_]+ = ", line) and not line.startswith(("PROJECT", "REPOSITORY"))
    ]
    names = {line.split(" = ")[0] for line in lines}
    assert len(lines) == len(names) <= 24
    assert all(re.search(r"  # \S", line) for line in lines), lines
    assert names >= {
        "DATA_DIR", "FEATURES_FILE", "GRID_FILE", "ENCODER_WEIGHTS", "ATTENTION", "EPOCHS",
        "LIMIT", "PHANTOMS", "CACHE_DIR", "CHECKPOINT_DIR",
    }  # fmt: skip


def test_the_parts_of_the_notebook_are_numbered():
    titles = [
        line
        for cell in cells()
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    assert [title.split(".")[0] for title in titles] == [f"## {n}" for n in range(1, 12)]


def test_nothing_names_the_machine_that_it_was_made_on():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    paths = re.compile(r"/(work|opt|root)/")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix == ".png" or "seeds" in path.parts or path == Path(__file__):
            continue
        assert not path.exists() or not paths.search(path.read_text("utf-8")), name
