"""Imitates Colab or Kaggle and runs the notebook there: `python …/imitate.py colab FOLDER`.

Copied as `sitecustomize.py` to a folder of PYTHONPATH, this file is imported by each Python that
starts, and shows it the imitated Kaggle: on localhost from Colab, mounted on Kaggle.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "roco_captioning.ipynb"
REPOSITORY = "someone/captions"  # git takes the working tree for it: runtimes.sh
SPLITS = ("train", "validation", "test")

PLATFORMS = {
    "colab": {"COLAB_RELEASE_TAG": "release-colab_20260819", "COLAB_GPU": ""},
    "kaggle": {  # its image is built on Colab's and keeps that variable
        "KAGGLE_KERNEL_RUN_TYPE": "Interactive",
        "KAGGLE_URL_BASE": "https://kaggle.com",
        "COLAB_RELEASE_TAG": "release-colab_20260416",
    },
}
SMALL = {"ROCO_EPOCHS": "2", "ROCO_ENCODER_WEIGHTS": "random", "ROCO_LIMIT": "24"}
TOLD = {  # what shows that the notebook took this platform's way
    "colab": ("colab: ", "without an account", "the default in Colab", "1 images left out"),
    "kaggle": ("kaggle: ", "this notebook has it attached", "1 images left out"),
}
SECRETS = '''class userdata:
    """A notebook without secrets."""

    def get(name):
        raise LookupError(name)
'''


class Imitated(importlib.abc.MetaPathFinder):
    """Changes modules once they are imported, without importing them itself."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        change = CHANGES.get(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path) if change else None
        if spec:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (run(module), change(module))
        return spec


def _to_localhost(kaggle: Any) -> None:
    if url := os.environ.get("IMITATED_KAGGLE"):
        kaggle.SERVER = url


def _to_mount(machine: Any) -> None:
    if folder := os.environ.get("IMITATED_INPUT"):
        machine.KAGGLE_INPUT = Path(folder)


CHANGES = {"roco_caption.data.kaggle": _to_localhost, "roco_caption.core.machine": _to_mount}


def make_roco(folder: Path) -> None:
    """Make phantoms that look like ROCO: its names, one image missing, and one that is none."""
    from roco_caption.data.phantoms.dataset import make_phantoms

    make_phantoms(folder, train=30, validation=14, test=14, progress=False)
    for place, split in enumerate(SPLITS):
        radiology = folder / "all_data" / split / "radiology"
        for table in [*radiology.glob("*.csv"), radiology / "captions.txt"]:
            table.write_text(table.read_text("utf-8").replace(f"PHANTOM_{split}_", f"PMC{place}"))
        for image in (radiology / "images").iterdir():
            image.rename(image.with_name(image.name.replace(f"PHANTOM_{split}_", f"PMC{place}")))
    train = folder / "all_data" / "train" / "radiology" / "images"
    (train / "PMC000003.jpg").unlink()
    (train / "PMC000004.jpg").write_text("<html>Not found</html>")


def zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.glob("all_data/**/*.*")):
            archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


@contextlib.contextmanager
def surroundings(platform: str, folder: Path) -> Any:
    """Yield the environment variables of an imitated platform, all of it in `folder`."""
    from helpers.colab import ColabServer
    from helpers.kaggle_server import KaggleServer

    site, home, mount = folder / "site", folder / "home", folder / "input"
    site.mkdir(parents=True)
    shutil.copy(__file__, site / "sitecustomize.py")
    profile = home / ".ipython" / "profile_default"  # both set this
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.matplotlib = 'inline'\n")
    taken = re.compile("ROCO_|COLAB_|KAGGLE_|KERAS_")
    env = {name: value for name, value in os.environ.items() if not taken.match(name)}
    env |= PLATFORMS[platform] | SMALL
    env |= {"HOME": str(home), "PYTHONPATH": str(site), "NO_PROXY": "localhost,127.0.0.1"}
    server = KaggleServer()
    if platform == "colab":
        make_roco(folder / "roco")
        server.archive = zipped(folder / "roco")
        (site / "google" / "colab").mkdir(parents=True)
        (site / "google" / "colab" / "__init__.py").write_text(SECRETS)
        env["IMITATED_KAGGLE"] = server.url
        session = ColabServer()  # a daemon, it ends with this process
        session.opened(
            f"fileId=https%3A//github.com/{REPOSITORY}/blob/main/notebooks/{NOTEBOOK.name}"
        )
        env |= session.variables
    else:
        make_roco(mount / "datasets" / "virajbagal" / "roco-dataset")
        subprocess.run(["chmod", "-R", "a-w", mount], check=True)
        env |= {"IMITATED_INPUT": str(mount), "ROCO_REPOSITORY": REPOSITORY}
    before = {path: path.stat().st_mtime_ns for path in mount.rglob("*")}
    try:
        yield env
    finally:
        server.close()
    if {path: path.stat().st_mtime_ns for path in mount.rglob("*")} != before:
        sys.exit("The notebook wrote to the attached data set.")  # root may, read-only or not


def complaints(executed: str, platform: str) -> list[str]:
    """Return what an executed notebook should show and does not."""
    import nbformat

    cells = [c for c in nbformat.reads(executed, as_version=4).cells if c.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    missing = [repr(phrase) for phrase in TOLD[platform] if phrase not in text]
    drawn = [
        cell for cell in cells if re.search(r"plots\.(?!word_map)\w+\(|explained\(", cell.source)
    ]
    for cell in drawn:
        if not any("image/png" in output.get("data", {}) for output in cell.outputs):
            missing.append(f"the picture of {cell.source.splitlines()[-1]!r}")
    return missing + ([] if drawn else ["any picture"])


def main(platform: str, folder: Path) -> None:
    """Run the notebook in an empty working folder, as it comes from its badge."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    notebook = folder / "content" / NOTEBOOK.name
    notebook.parent.mkdir(parents=True)
    shutil.copy(NOTEBOOK, notebook)
    executed = ROOT / "notebooks" / "executed" / f"{platform}.ipynb"
    executed.parent.mkdir(exist_ok=True)
    with surroundings(platform, folder) as env:
        command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "notebook"]
        command += ["--log-level", "WARN", "--ExecutePreprocessor.timeout=-1"]
        command += ["--output", str(executed), str(notebook)]
        if subprocess.run(command, env=env, cwd=notebook.parent).returncode:
            sys.exit("The notebook failed.")
    if missing := complaints(executed.read_text("utf-8"), platform):
        sys.exit(f"{executed} does not show {', '.join(missing)}.")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
elif __name__ == "sitecustomize":
    sys.meta_path.insert(0, Imitated())
