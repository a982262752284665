"""The wheel holds what an installed package needs, and its pages can be built."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import roco_caption

ROOT = Path(__file__).parents[1]


def test_the_wheel_is_whole_and_typed(tmp_path):
    source = tmp_path / "source"
    source.mkdir()  # a copy, for the build leaves files behind
    for name in ("pyproject.toml", "README.md", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "roco_caption", source / "roco_caption")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    modules = {f"roco_caption/{path.name}" for path in (ROOT / "roco_caption").glob("*.py")}
    assert modules | {"roco_caption/py.typed"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"roco_caption"}
    assert f"Version: {roco_caption.__version__}" in metadata
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        if name := re.match(r"[\w-]+", line):
            assert re.search(rf"Requires-Dist: {name[0]}\b", metadata), line


def test_the_changelog_tells_of_this_version():
    assert f"## [{roco_caption.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
