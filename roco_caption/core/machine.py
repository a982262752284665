"""Where the notebook runs and on what: platform, accelerator, precision, settings, seeds."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from roco_caption.core.backend import chatter_left_out, quiet_tensorflow
from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import make_folder

Setting = TypeVar("Setting", bool, int, float, str)

# The module that each distribution of requirements.txt provides, where the names differ.
_MODULES = {"pillow": "PIL", "rouge-score": "rouge_score"}


def install_missing(requirements: str | os.PathLike) -> list[str]:
    """Install the packages of a requirements file that cannot be imported yet.

    What is there already is left alone, TensorFlow above all: Colab's and Kaggle's own builds
    match their drivers, and another one would cost minutes and might not see the GPU. A folder
    `wheels` beside the file is used instead of the network.

    Args:
        requirements: path of a pip requirements file.

    Returns:
        The requirement lines that were installed, empty when nothing was missing.

    Raises:
        UserError: pip failed; its last line is in the message.
    """
    lines = [line.split("#")[0].strip() for line in Path(requirements).read_text().splitlines()]
    missing = [line for line in lines if line and not _importable(line)]
    if missing:
        wheels = Path(requirements).parent / "wheels"  # brought along where there is no network
        offline = ["--no-index", f"--find-links={wheels}"] if wheels.is_dir() else []
        pip = [sys.executable, "-m", "pip", "install", "-q", *offline, *missing]
        result = subprocess.run(pip, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(
                f"pip could not install {', '.join(missing)} ({reason}). Switch the internet on "
                "(Kaggle: Settings, Internet) or install them by hand, then run this cell again."
            )
        importlib.invalidate_caches()
    return missing


def _importable(requirement: str) -> bool:
    name = re.split(r"[^\w.-]", requirement)[0].lower()
    return importlib.util.find_spec(_MODULES.get(name, name.replace("-", "_"))) is not None


def setting(name: str, default: Setting, choices: tuple[str, ...] = ()) -> Setting:
    """Return a notebook setting: the environment variable `ROCO_<name>` if set, else `default`.

    Args:
        name: the setting's name in capitals, such as `EPOCHS`.
        default: its value in the notebook; the variable's text is read as this value's type.
        choices: the values that a text may have; any when empty.

    Raises:
        UserError: the variable's text is not of that type, or is none of the choices.
    """
    text = os.environ.get(f"ROCO_{name}")
    value: Any = default if text is None else text
    if text is not None and not isinstance(default, str):
        value = _parse(f"ROCO_{name}", text.strip(), type(default))
    if choices and value not in choices:
        raise UserError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")
    return value


def _parse(name: str, text: str, kind: type) -> Any:
    switches = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return switches[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise UserError(f"{name} is {text!r}, which is no {kind.__name__}.") from error


def find_platform() -> str:
    """Return `"colab"`, `"kaggle"` or `"local"`."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:  # first: its image is Colab's, variables included
        return "kaggle"
    colab = "COLAB_RELEASE_TAG" in os.environ or "COLAB_GPU" in os.environ
    return "colab" if colab else "local"


@dataclass(frozen=True)
class Runtime:
    """What the notebook found; its `str` is the line that the notebook prints."""

    platform: str
    accelerators: tuple[str, ...]
    cores: int
    memory_gb: float
    precision: str
    versions: dict[str, str]

    def __str__(self) -> str:
        devices = ", ".join(self.accelerators) or "no accelerator"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        known = self.memory_gb == self.memory_gb  # else NaN
        memory = f"{self.memory_gb:.0f} GB of memory" if known else "memory unknown"
        return (
            f"{self.platform}: {devices}, {self.cores} CPU cores, {memory}, "
            f"encoder in {self.precision}\n{versions}"
        )


def detect() -> Runtime:
    """Find the platform, its accelerators, and the fastest precision that they compute in.

    Returns:
        The `Runtime`. `precision` is a Keras dtype policy for the encoder: `mixed_float16` on an
        NVIDIA GPU, `mixed_bfloat16` on a TPU or a CPU with bfloat16 units, else `float32`.
    """
    quiet_tensorflow()
    with chatter_left_out():
        import keras

    accelerators = _accelerators(keras.backend.backend())
    backend = keras.backend.backend()
    versions = {"Python": sys.version.split()[0], "Keras": keras.__version__}
    versions[backend] = importlib.import_module(backend).__version__
    return Runtime(
        platform=find_platform(),
        accelerators=accelerators,
        cores=_cores(),
        memory_gb=_memory_gb(),
        precision=_precision(accelerators),
        versions=versions,
    )


def _accelerators(backend: str) -> tuple[str, ...]:
    if backend == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        for device in devices:  # leave the memory that is not needed to others
            tf.config.experimental.set_memory_growth(device, True)
        details = [tf.config.experimental.get_device_details(device) for device in devices]
        return tuple(detail.get("device_name", "GPU") for detail in details) + tuple(
            device.name for device in tf.config.list_physical_devices("TPU")
        )
    if backend == "jax":
        import jax

        return tuple(d.device_kind for d in jax.devices() if d.platform != "cpu")
    return ()


def _precision(accelerators: tuple[str, ...]) -> str:
    if any("TPU" in name for name in accelerators):
        return "mixed_bfloat16"
    if accelerators:
        return "mixed_float16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "mixed_bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # what this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError, AttributeError):  # not told on this system
        return float("nan")


def set_seeds(seed: int) -> None:
    """Seed Python, NumPy and Keras, so that a run on one machine can be repeated."""
    import keras

    keras.utils.set_random_seed(seed)


KAGGLE_INPUT = Path("/kaggle/input")
DRIVE = Path("/content/drive")
DEPTH = 4  # folders of the attached data sets that are looked through; ROCO's images lie deeper


def attached(name: str) -> list[Path]:
    """Return the files or folders of this name in the data sets attached to a Kaggle notebook.

    Args:
        name: a file's or folder's name.

    Returns:
        Paths, those least deep first; none anywhere else than on Kaggle.
    """
    patterns = ("*/" * depth + name for depth in range(1, DEPTH + 1))
    return [path for pattern in patterns for path in sorted(KAGGLE_INPUT.glob(pattern))]


def writable(project: str | os.PathLike) -> Path:
    """Return the folder for what a run makes.

    Args:
        project: the project's folder.

    Returns:
        It, or the working folder where the project is attached on Kaggle, and so read-only.
    """
    project = Path(project)
    return Path.cwd() if project.is_relative_to(KAGGLE_INPUT) else project


def drive_folder(folder: str, platform: str) -> Path | None:
    """Return the folder that outlives the machine, and mount Google Drive for it in Colab.

    Args:
        folder: such as "/content/drive/MyDrive/roco"; empty where none is wanted.
        platform: `"colab"`, `"kaggle"` or `"local"`; Drive is mounted in Colab only.

    Returns:
        The folder, made where missing; None where none is wanted.

    Raises:
        UserError: Drive was not mounted, or the folder cannot be made.
    """
    if not folder:
        return None
    path = Path(folder).expanduser()
    if platform == "colab" and path.is_relative_to(DRIVE) and not (DRIVE / "MyDrive").is_dir():
        try:
            from google.colab import drive

            drive.mount(str(DRIVE))
        except Exception as error:  # refused by its owner, or timed out
            raise UserError(
                f"Google Drive was not mounted ({first_line(error)}). Run this cell again and "
                "allow it, or set DRIVE_DIR to '' to go without it."
            ) from error
    return make_folder(path)
