"""Where the notebook runs: platform, accelerators, precision, settings, folders, random seeds."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from platform import python_version
from typing import Any, TypeVar

from roco_caption.core.backend import chatter_left_out, quiet_tensorflow
from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import make_folder

Setting = TypeVar("Setting", bool, int, float, str)


def install_missing(requirements: str | os.PathLike) -> list[str]:
    """Install the packages of a pip requirements file that cannot be imported yet; return them.

    Installed ones stay as they are: Colab's and Kaggle's TensorFlow matches their drivers. A folder
    `wheels` beside the file replaces the network.
    """
    lines = [line.split("#")[0].strip() for line in Path(requirements).read_text().splitlines()]
    missing = [line for line in lines if line and not _importable(line)]
    if missing:
        wheels = Path(requirements).parent / "wheels"
        offline = ["--no-index", f"--find-links={wheels}"] if wheels.is_dir() else []
        pip = [sys.executable, "-m", "pip", "install", "-q", *offline, *missing]
        result = subprocess.run(pip, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(
                f"pip could not install {', '.join(missing)} ({reason}). Switch on the internet "
                "(Kaggle: Settings, Internet) or install them yourself, then run this cell again."
            )
        importlib.invalidate_caches()
    return missing


def _importable(requirement: str) -> bool:
    name = re.split(r"[^\w.-]", requirement)[0].lower()
    module = "PIL" if name == "pillow" else name.replace("-", "_")
    return importlib.util.find_spec(module) is not None


def setting(name: str, default: Setting) -> Setting:
    """Return the environment variable `ROCO_<name>` as the type of `default`, else `default`."""
    text = os.environ.get(f"ROCO_{name}")
    if text is None:
        return default
    switches = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    kind: Any = type(default)
    try:
        return kind(switches[text.strip().lower()] if kind is bool else text)
    except (KeyError, ValueError) as error:
        kind_name = "an int" if kind is int else f"a {kind.__name__}"
        raise UserError(f"ROCO_{name} must be {kind_name}, got {text!r}.") from error


def find_platform() -> str:
    """Return `"colab"`, `"kaggle"` or `"local"`."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:  # first: Kaggle's image has Colab's variables too
        return "kaggle"
    return "colab" if {"COLAB_RELEASE_TAG", "COLAB_GPU"} & os.environ.keys() else "local"


@dataclass(frozen=True)
class Runtime:
    """The machine, as `detect` returns it; `precision` is a Keras dtype policy for the encoder."""

    platform: str
    accelerators: tuple[str, ...]
    cores: int
    memory_gb: float
    precision: str
    versions: dict[str, str]

    def __str__(self) -> str:
        devices = ", ".join(self.accelerators) or "no accelerator"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        hardware = f"{devices}, {self.cores} CPU cores, {self.memory_gb:.0f} GB of memory"
        return f"{self.platform}: {hardware}, encoder in {self.precision}\n{versions}"


def detect() -> Runtime:
    """Find the platform, its accelerators, and the fastest precision for the encoder."""
    quiet_tensorflow()
    with chatter_left_out():
        import keras

    backend = keras.backend.backend()
    accelerators = _accelerators(backend)
    version = importlib.import_module(backend).__version__
    versions = {"Python": python_version(), "Keras": keras.__version__, backend: version}
    cores, memory_gb = os.cpu_count() or 1, float("nan")  # on Windows
    if sys.platform != "win32":
        memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))  # those that this process may use
    precision = _precision(accelerators)
    return Runtime(find_platform(), accelerators, cores, memory_gb, precision, versions)


def _accelerators(backend: str) -> tuple[str, ...]:
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:  # take memory only as needed, and leave the rest to others
            tf.config.experimental.set_memory_growth(gpu, True)
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        tpus = tf.config.list_physical_devices("TPU")
        return (*(d.get("device_name", "GPU") for d in details), *(tpu.name for tpu in tpus))
    if backend == "jax":
        import jax

        return tuple(d.device_kind for d in jax.devices() if d.platform != "cpu")
    return ()


def _precision(accelerators: tuple[str, ...]) -> str:
    if accelerators:
        tpu = any("TPU" in name for name in accelerators)
        return "mixed_bfloat16" if tpu else "mixed_float16"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "mixed_bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def set_seeds(seed: int) -> None:
    """Seed Python, NumPy and Keras, so that a run on one machine can be repeated."""
    import keras

    keras.utils.set_random_seed(seed)


KAGGLE_INPUT = Path("/kaggle/input")
DRIVE = Path("/content/drive")


def attached(name: str) -> list[Path]:
    """Return files and folders of this name in data sets attached on Kaggle, least deep first."""
    patterns = ("*/" * depth + name for depth in (1, 2, 3, 4))  # ROCO's images are deeper
    return [path for pattern in patterns for path in sorted(KAGGLE_INPUT.glob(pattern))]


def writable(project: str | os.PathLike) -> Path:
    """Return the project's folder, or the working folder if that is attached, so read-only."""
    project = Path(project)
    return Path.cwd() if project.is_relative_to(KAGGLE_INPUT) else project


def drive_folder(folder: str, platform: str) -> Path | None:
    """Make and return a folder (None if ""); on "colab" mount Google Drive if it is inside."""
    if not folder:
        return None
    path = Path(folder).expanduser()
    if platform == "colab" and path.is_relative_to(DRIVE) and not (DRIVE / "MyDrive").is_dir():
        try:
            from google.colab import drive

            drive.mount(str(DRIVE))
        except Exception as error:  # permission refused, or a timeout
            raise UserError(
                f"Google Drive was not mounted ({first_line(error)}). Run this cell again and "
                "grant permission, or set DRIVE_DIR to '' to go without it."
            ) from error
    return make_folder(path)
