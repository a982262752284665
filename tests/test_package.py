"""The wheel holds every room, and works where it is installed."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import roco_caption

ROOT = Path(__file__).parents[1]
USE = """
import sys
import roco_caption
assert "site" in roco_caption.__file__, roco_caption.__file__
assert "keras" not in sys.modules
from roco_caption.core.errors import UserError
from roco_caption.data.phantoms.dataset import make_phantoms
from roco_caption.text.tokenizer import CaptionTokenizer
print(CaptionTokenizer.fit(["a mass"] * 3).decode([4, 5, 2]))
from roco_caption import Captioner
assert "keras" in sys.modules
Captioner.load("nowhere")
"""


def build(folder: Path) -> Path:
    source = folder / "source"
    source.mkdir()  # a copy, as the build leaves files behind
    for name in ("pyproject.toml", "README.md", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "roco_caption", source / "roco_caption", ignore=shutil.ignore_patterns("__pycache__")
    )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_has_every_room_and_can_be_used(tmp_path):
    wheel = build(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
        archive.extractall(tmp_path / "site")
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "roco_caption").rglob("*.py")}
    assert modules | {"roco_caption/py.typed"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"roco_caption"}
    assert f"Version: {roco_caption.__version__}" in metadata
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines():
        if name := re.match(r"[\w-]+", line):
            assert re.search(rf"Requires-Dist: {name[0]}\b", metadata), line
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(tmp_path / "site"), "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": ""},
    )  # fmt: skip
    assert done.stdout == "a mass\n"
    assert "UserError" in done.stderr and "nowhere/captioner.json is missing" in done.stderr


def test_the_changelog_has_this_version():
    assert f"## [{roco_caption.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
