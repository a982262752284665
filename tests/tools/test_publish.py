"""What names this project's repository agrees; `make publish` writes all of it."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "publish.py"
spec = importlib.util.spec_from_file_location("publish", SCRIPT)
publish = importlib.util.module_from_spec(spec)
spec.loader.exec_module(publish)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("README.md", publish.NOTEBOOK, publish.METADATA):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def agree(root):
    return len({frozenset(found) for found in publish.addresses(root).values()}) == 1


def test_this_tree_agrees_with_itself():
    assert agree(ROOT), publish.addresses(ROOT)


def test_badges_and_the_notebooks_address_are_written_together(tree):
    for repository in ("someone/captions", "other-one/x.y_z"):  # the second replaces the first
        publish.publish(tree, repository, "someone-on-kaggle")
        assert set(publish.addresses(tree)) == {"README.md", "notebook", "REPOSITORY"}
        assert all(found == {repository} for found in publish.addresses(tree).values())
    for text in ((tree / "README.md").read_text("utf-8"), (tree / publish.NOTEBOOK).read_text()):
        assert text.count("[![Open in Colab]") == text.count("[![Open in Kaggle]") == 1
        assert "someone/captions" not in text
    metadata = json.loads((tree / publish.METADATA).read_text("utf-8"))
    assert metadata["id"] == "someone-on-kaggle/captions-for-radiology-images"
    before = {path: path.read_bytes() for path in tree.rglob("*.*")}
    publish.publish(tree, "other-one/x.y_z", "someone-on-kaggle")
    assert {path: path.read_bytes() for path in tree.rglob("*.*")} == before
    nbformat.validate(nbformat.read(tree / publish.NOTEBOOK, 4))


@pytest.mark.parametrize("place", ["README.md", publish.NOTEBOOK])
def test_a_disagreement_is_noticed(tree, place):
    publish.publish(tree, "someone/captions")
    assert agree(tree)
    path = tree / place
    path.write_text(
        path.read_text("utf-8").replace("someone/captions", "else/captions", 1), "utf-8"
    )
    assert not agree(tree)


@pytest.mark.parametrize("repository", ["", "captions", "--x/y", "a/b/c", "a/..", 'a/b"', "a b/c"])
def test_an_invalid_address_changes_nothing(tree, repository):
    before = {path: path.read_bytes() for path in tree.rglob("*.*")}
    with pytest.raises(SystemExit, match="owner/name"):
        publish.publish(tree, repository)
    with pytest.raises(SystemExit, match="KAGGLE"):
        publish.publish(tree, "a/b", "Not A Name")
    assert {path: path.read_bytes() for path in tree.rglob("*.*")} == before


def fake_python(folder, name, version):
    """Write a program that takes itself for a Python of this version."""
    code = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    path = folder / name
    path.write_text(
        f'#!/bin/sh\ncase $1 in -c) exec {sys.executable} -c "{code}" "$2";; '
        f"--version) echo Python {'.'.join(map(str, version))};; *) echo $0 $@; exit 3;; esac\n"
    )
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("pythons", "used"),
    [
        ({"python3": (3, 12, 1)}, "python3"),
        ({"python3": (3, 14, 0), "python3.13": (3, 13, 1), "python3.11": (3, 11, 0)}, "python3.13"),
        ({"python3": (3, 10, 9), "python3.11": (3, 11, 0)}, "python3.11"),
        ({"python3": (3, 14, 0)}, ""),
        ({"python3": (3, 10, 9)}, ""),
        ({}, ""),
    ],
)
def test_make_chooses_a_python_that_tensorflow_has_packages_for(tmp_path, pythons, used):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, version in pythons.items():
        fake_python(tools, name, version)
    for name in ("sh", "uname", "sed", "echo", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    make = shutil.which("make")
    done = subprocess.run(
        [make, f"VENV={tmp_path / 'venv'}", f"SHELL={shutil.which('sh')}", "notebook"],
        cwd=ROOT, env={"PATH": str(tools)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0  # none of these can make an environment
    if used:
        assert f"{tools / used} -m venv" in done.stdout
    else:
        assert "3.11, 3.12 or 3.13" in done.stdout and "-m venv" not in done.stdout
        assert not pythons or f"Python {'.'.join(map(str, pythons['python3']))}" in done.stdout
