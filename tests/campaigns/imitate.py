"""Imitates Colab or Kaggle and runs the notebook there: `python …/imitate.py colab FOLDER`.

A third argument is the folder of an earlier imitation, whose output is attached on Kaggle; or the
word "setup", which runs the set-up cells in the situations of `SITUATIONS` instead.

Copied as `sitecustomize.py` to a folder of PYTHONPATH, this file is imported by each Python that
starts, and shows it the imitated Kaggle: on localhost from Colab, mounted on Kaggle.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
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
    "colab": (
        "colab: ", "without an account", "the default in Colab", "1 images left out",
        "Imitated mount", "Saved: this run in", "Copies in ", "Imitated download of",
    ),
    "kaggle": (
        "kaggle: ", "this notebook has it attached", "1 images left out", "Saved: this run in",
    ),
}  # fmt: skip
REUSED = "files brought back from", "images reused from", "Reused a finished training"
GOOGLE_COLAB = '''"""Colab without secrets, in which nobody chooses a file."""
import contextlib
import json
import os


class userdata:
    def get(name):
        raise LookupError(name)


class files:
    def download(path):
        print("Imitated download of", path)

    def upload():
        raise RuntimeError("an upload blocks all cells")


class drive:
    def mount(point):
        print("Imitated mount", point)
        os.makedirs(os.path.join(point, "MyDrive"))


class output:
    use_tags = contextlib.nullcontext

    def clear(output_tags):
        pass


class _message:
    def blocking_request(request_type, request="", timeout_sec=5):
        return json.loads(os.environ["IMITATED_NOTEBOOK"])
'''
MISSING = "SystemExit: The package roco_caption is missing", "as a zip"
SITUATIONS = {  # the end of the set-up cells: what they must say, and whether they must stop
    "colab": {
        "opened from a fork": (("Fetched github.com/someone/captions, main",), False),
        "a copy in Drive": (("Fetched github.com/someone/captions, main",), False),
        "uploaded alone": (MISSING, True),
        "an old kaggle package": (("Installed: nothing was missing",), False),
        "no GPU": (("WARNING: No GPU", "Change runtime type"), False),
    },
    "kaggle": {
        "no internet, wheels attached": (("Installed: imitated-package>=1", "kaggle: "), False),
        "no internet, no wheels": (("pip could not install imitated-package", "Internet)"), True),
        "no internet, no project": (
            ("github.com/someone/captions", "is missing", "as a zip"),
            True,
        ),
        "an old kaggle package": (("Installed: nothing was missing",), False),
        "no GPU": (("WARNING: No GPU", "Settings, Accelerator"), False),
    },
}


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
    if folder := os.environ.get("IMITATED_DRIVE"):
        machine.DRIVE, ismount = Path(folder), os.path.ismount
        mounted = machine.DRIVE / "MyDrive"
        os.path.ismount = lambda p: mounted.is_dir() if Path(p) == machine.DRIVE else ismount(p)


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
def surroundings(
    platform: str, folder: Path, attach: Callable[[Path], None] = lambda mount: None
) -> Any:
    """Yield the environment variables of an imitated platform, all of it in `folder`.

    `attach` writes further inputs to Kaggle's mount.
    """
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
        (site / "google" / "colab" / "__init__.py").write_text(GOOGLE_COLAB)
        env |= {"IMITATED_KAGGLE": server.url, "IMITATED_DRIVE": str(folder / "drive")}
        env["ROCO_DRIVE_DIR"] = str(folder / "drive" / "MyDrive" / "roco")
        env["IMITATED_NOTEBOOK"] = "null"
        session = ColabServer()  # a daemon, it ends with this process
        session.opened(
            f"fileId=https%3A//github.com/{REPOSITORY}/blob/main/notebooks/{NOTEBOOK.name}"
        )
        env |= session.variables
    else:
        make_roco(mount / "datasets" / "virajbagal" / "roco-dataset")
        attach(mount)
        subprocess.run(["chmod", "-R", "a-w", mount], check=True)
        env |= {"IMITATED_INPUT": str(mount), "ROCO_REPOSITORY": REPOSITORY}
    before = {path: path.stat().st_mtime_ns for path in mount.rglob("*")}
    try:
        yield env
    finally:
        server.close()
    if {path: path.stat().st_mtime_ns for path in mount.rglob("*")} != before:
        sys.exit("The notebook wrote to the attached data set.")  # root may, read-only or not


def complaints(executed: str, told: tuple[str, ...]) -> list[str]:
    """Return what an executed notebook should show and does not."""
    import nbformat

    cells = [c for c in nbformat.reads(executed, as_version=4).cells if c.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    missing = [repr(phrase) for phrase in told if phrase not in text]
    drawn = [
        cell for cell in cells if re.search(r"plots\.(?!word_map)\w+\(|explained\(", cell.source)
    ]
    for cell in drawn:
        pages = [output.get("data", {}).get("text/html", "") for output in cell.outputs]
        if not any("<img alt=" in page for page in pages):
            missing.append(f"the picture of {cell.source.splitlines()[-1]!r}")
    return missing + ([] if drawn else ["any picture"])


def arrange(situation: str, folder: Path, env: dict[str, str]) -> None:
    """Change the surroundings in `folder`, and `env`, to a situation of `SITUATIONS`."""
    from helpers.colab import ColabServer, notebook_from

    site = folder / "site"
    session = ColabServer()
    if situation in ("a copy in Drive", "uploaded alone"):
        session.opened("fileId=1AbC" if "copy" in situation else NOTEBOOK.name)
        env |= session.variables
    if situation == "a copy in Drive":
        origin = f"https://github.com/{REPOSITORY}/blob/main/notebooks/{NOTEBOOK.name}"
        env["IMITATED_NOTEBOOK"] = json.dumps(notebook_from("1Original", origin))
    if situation == "an old kaggle package":
        (site / "kaggle-1.6.17.dist-info").mkdir()
        metadata = "Metadata-Version: 2.1\nName: kaggle\nVersion: 1.6.17\n"
        (site / "kaggle-1.6.17.dist-info" / "METADATA").write_text(metadata)
        (site / "kaggle.py").write_text("raise SystemExit('Could not find kaggle.json')\n")
    if situation == "no GPU":
        env["CUDA_VISIBLE_DEVICES"] = ""
    if "no internet" in situation:
        env |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
        env |= {"PIP_TARGET": str(site), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "url.file:///nowhere/.insteadOf"}
        env["GIT_CONFIG_VALUE_0"] = "https://github.com/"
    if "wheels" in situation:
        del env["ROCO_REPOSITORY"]
        env["PYTHONDONTWRITEBYTECODE"] = "1"  # root may write there, read-only or not


def attach_project(mount: Path, *, wheels: bool) -> None:
    """Attach this project with one more requirement, perhaps with the wheel that it needs."""
    project = mount / "roco-caption"
    shutil.copytree(ROOT / "roco_caption", project / "roco_caption")
    needs = (ROOT / "requirements.txt").read_text() + "imitated-package>=1\n"
    (project / "requirements.txt").write_text(needs)
    if wheels:
        (project / "wheels").mkdir()
        info = "imitated_package-1.0.dist-info"
        wheel = project / "wheels" / "imitated_package-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            metadata = "Metadata-Version: 2.1\nName: imitated-package\nVersion: 1.0\n"
            archive.writestr(f"{info}/METADATA", metadata)
            tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            archive.writestr(f"{info}/WHEEL", tags)
            archive.writestr(f"{info}/RECORD", "")


def attach_output(mount: Path, earlier: Path) -> None:
    """Attach the output of an earlier imitation, as Kaggle mounts that of a notebook."""
    for name in ("data/features", "checkpoints"):
        output = mount / "notebooks" / "someone" / "captions" / "roco-caption" / name
        shutil.copytree(earlier / "content" / "roco-caption" / name, output)


def set_up(platform: str, situation: str, folder: Path) -> list[str]:
    """Run the set-up cells in a situation; return what they should say and do not."""
    import nbformat

    from tools.run_notebook import execute

    says, stops = SITUATIONS[platform][situation]
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    last = [cell.id for cell in notebook.cells].index("cell-04")
    notebook.cells = notebook.cells[: last + 1]
    first = next(cell for cell in notebook.cells if cell.id == "cell-02")
    first.source = first.source.replace('"/kaggle/input"', repr(str(folder / "input")))
    (folder / "content").mkdir(parents=True)
    before = dict(os.environ)
    attach: Any = partial(attach_project, wheels="wheels attached" in situation)
    with surroundings(platform, folder, *([attach] if "wheels" in situation else [])) as env:
        arrange(situation, folder, env)
        os.environ.clear()
        os.environ.update(env)
        try:
            failure = execute(notebook, folder / "content")
        finally:
            os.environ.clear()
            os.environ.update(before)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs) + failure
    missing = [repr(phrase) for phrase in says if phrase not in text]
    if bool(failure) != stops:
        missing.append(f"the end {'by a message' if stops else 'of the set-up'}: {failure}")
    if stops and failure.split(":")[0] not in ("SystemExit", "UserError"):
        missing.append(f"one clear message instead of {failure}")
    return missing


def set_up_everywhere(platform: str, folder: Path) -> None:
    """Run the set-up cells in all situations; exit with those that did not end as they should."""
    wrong = []
    for number, situation in enumerate(SITUATIONS[platform]):
        missing = set_up(platform, situation, folder / str(number))
        print(f"{platform}, {situation}:", ", ".join(missing) or "ok", flush=True)
        wrong += [situation] if missing else []
    if wrong:
        sys.exit(f"Not as expected: {', '.join(wrong)}.")


def main(platform: str, folder: Path, earlier: Path | None = None) -> None:
    """Run the notebook in an empty working folder, as it comes from its badge."""
    notebook = folder / "content" / NOTEBOOK.name
    notebook.parent.mkdir(parents=True)
    shutil.copy(NOTEBOOK, notebook)
    name = f"{platform}-attached" if earlier else platform
    executed = ROOT / "notebooks" / "executed" / f"{name}.ipynb"
    executed.parent.mkdir(exist_ok=True)
    attach = [partial(attach_output, earlier=earlier)] if earlier else []
    with surroundings(platform, folder, *attach) as env:
        command = [sys.executable, "-m", "nbconvert", "--execute", "--to", "notebook"]
        command += ["--log-level", "WARN", "--ExecutePreprocessor.timeout=-1"]
        command += ["--output", str(executed), str(notebook)]
        if subprocess.run(command, env=env, cwd=notebook.parent).returncode:
            sys.exit("The notebook failed.")
    told = TOLD[platform] + (REUSED if earlier else ())
    if missing := complaints(executed.read_text("utf-8"), told):
        sys.exit(f"{executed} does not show {', '.join(missing)}.")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    chosen, place = sys.argv[1], Path(sys.argv[2]).resolve()
    if sys.argv[3:] == ["setup"]:
        set_up_everywhere(chosen, place)
    else:
        main(chosen, place, *(Path(each).resolve() for each in sys.argv[3:]))
elif __name__ == "sitecustomize":
    sys.meta_path.insert(0, Imitated())
