"""Where the notebook runs: platform, accelerators, precision, settings, folders, random seeds."""

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any, TypeVar

from packaging.requirements import Requirement

from roco_caption.core.backend import chatter_left_out, quiet_tensorflow
from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import make_folder

Setting = TypeVar("Setting", bool, int, float, str)

KAGGLE_INPUT, DRIVE = Path("/kaggle/input"), Path("/content/drive")
KEPT = ("tensorflow", "keras", "numpy", "pandas")  # they match each other and the drivers
NEWEST = "Choose the newest runtime (Colab: Runtime, Change runtime type; Kaggle: Settings, "
NEWEST += "Environment: latest), or let `make notebook` set up an environment."


def install_missing(requirements: str | os.PathLike) -> list[str]:
    """Install packages of a pip requirements file that are missing or too old; return their lines.

    Installed versions of `KEPT` never change. A folder `wheels` beside it replaces the network.
    """
    lines = [line.split("#")[0].strip() for line in Path(requirements).read_text().splitlines()]
    needs = {line: Requirement(line) for line in lines if line}
    versions = {line: _installed_version(need.name) for line, need in needs.items()}
    wrong = [line for line in needs if not _fits(needs[line], versions[line])]
    no_tensorflow = any(needs[line].name == "tensorflow" for line in wrong)
    if sys.version_info < (3, 11) or (sys.version_info >= (3, 14) and no_tensorflow):
        raise UserError(f"Python must be 3.11, 3.12 or 3.13, got {python_version()}. {NEWEST}")
    for line in wrong:
        if needs[line].name in KEPT and versions[line]:
            raise UserError(f"{line} is needed, got {versions[line]}. If that is too old: {NEWEST}")
    if wrong:
        _pip_install(wrong, Path(requirements).parent / "wheels")
    loaded = [line for line in wrong if versions[line] and _module(needs[line].name) in sys.modules]
    if loaded:
        print(f"Restart the kernel: older packages are still loaded ({', '.join(loaded)}).")
    return wrong


def _fits(need: Requirement, version: str) -> bool:
    return bool(version) and need.specifier.contains(version, prereleases=True)


def _module(name: str) -> str:
    return "PIL" if name.lower() == "pillow" else name.lower().replace("-", "_")


def _installed_version(name: str) -> str:
    """Return the version of an installed package, "" if it is missing."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    others = metadata.packages_distributions().get(_module(name))  # such as tensorflow-cpu
    return metadata.version(others[0]) if others else ""


def _pip_install(lines: list[str], wheels: Path) -> None:
    """Install requirement lines, `KEPT` unchanged, from the folder `wheels` if there is one."""
    kept = [f"{name}=={version}" for name in KEPT if (version := _installed_version(name))]
    offline = ["--no-index", f"--find-links={wheels}"] if wheels.is_dir() else []
    pip = [sys.executable, "-m", "pip", "install", "-q", *offline, *lines]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "kept.txt")
        constraints.write_text("\n".join(kept))
        result = subprocess.run([*pip, "-c", str(constraints)], capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"pip could not install {', '.join(lines)} ({reason}). Switch on the internet "
            "(Kaggle: Settings, Internet) or install them yourself, then run this cell again."
        )
    importlib.invalidate_caches()


def project_commit(project: str | os.PathLike) -> str:
    """Return the commit of a clone, with "-dirty" if files were changed, "unknown" without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if Path(project, ".git").exists():  # git itself would also look above
            done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=20)
            return done.stdout.strip() or "unknown"
    return "unknown"


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
    memory_gb = float("nan")
    with contextlib.suppress(AttributeError):  # Windows lacks it
        memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    platform = find_platform()
    if not accelerators:
        _warn_without_accelerator(platform, backend)
    return Runtime(
        platform, accelerators, usable_cpus(), memory_gb, _precision(accelerators), versions
    )


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    with contextlib.suppress(AttributeError):  # macOS and Windows lack it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _warn_without_accelerator(platform: str, backend: str) -> None:
    """Print a warning if a GPU could be used; notebooks show standard error in red."""
    menus = {"colab": "Runtime, Change runtime type", "kaggle": "Settings, Accelerator"}
    if _has_nvidia_card() and os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1"):
        print(f"WARNING: This machine has an NVIDIA card, but {backend} does not see it: everything"
              ' runs on the CPU. Try pip install "tensorflow[and-cuda]", then a newer driver.',
              file=sys.stderr)  # fmt: skip
    elif platform in menus:
        print(f"WARNING: No GPU. Choose one ({menus[platform]}) and run all cells again. On two "
              "CPU cores, VGG16's features of ROCO's 82,000 images take 22 to 45 minutes with "
              "AVX-512 and bfloat16, 5 hours without AVX-512.", file=sys.stderr)  # fmt: skip


def _has_nvidia_card() -> bool:
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no nvidia-smi
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
        return "GPU 0" in done.stdout
    return False


def has_accelerator() -> bool:
    """Return whether Keras' backend finds a GPU or TPU."""
    import keras

    return bool(_accelerators(keras.backend.backend()))


def _accelerators(backend: str) -> tuple[str, ...]:
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        with contextlib.suppress(RuntimeError, ValueError):  # TensorFlow has used the card already
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)  # leave the rest to others
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        tpus = tf.config.list_physical_devices("TPU")
        return (*(d.get("device_name", "GPU") for d in details), *(tpu.name for tpu in tpus))
    if backend == "jax":
        import jax

        return tuple(d.device_kind for d in jax.devices() if d.platform != "cpu")
    return ()


def _precision(accelerators: tuple[str, ...]) -> str:
    if accelerators:
        return "mixed_bfloat16" if "TPU" in "".join(accelerators) else "mixed_float16"
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    return "mixed_bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def attached(name: str) -> list[Path]:
    """Return files and folders of this name in inputs attached on Kaggle, least deep first."""
    patterns = ("*/" * depth + name for depth in range(1, 6))  # ROCO's images are deeper
    return [path for pattern in patterns for path in sorted(KAGGLE_INPUT.glob(pattern))]


def writable(project: str | os.PathLike) -> Path:
    """Return the project's folder, or the working folder if that is attached, so read-only."""
    project = Path(project)
    return Path.cwd() if project.is_relative_to(KAGGLE_INPUT) else project


def mount_drive(paths: Iterable[str]) -> None:
    """In Colab, mount Google Drive if one of the paths is on it, and it is not mounted.

    UserError if Colab or its user refuses.
    """
    asked = any(Path(path).expanduser().absolute().is_relative_to(DRIVE) for path in paths)
    if not asked or find_platform() != "colab" or os.path.ismount(DRIVE.resolve()):
        return
    try:
        from google.colab import drive

        drive.mount(str(DRIVE))
    except Exception as error:  # permission refused, or a timeout
        raise UserError(
            f"Google Drive was not mounted ({first_line(error)}). Run this cell again and grant "
            "permission, or choose paths that are not on the Drive (DRIVE_DIR = '')."
        ) from error


def refuse_unmounted(path: str | os.PathLike) -> None:
    """Raise a UserError for a path on a Drive that was unmounted: it would be on Colab's disk."""
    on_drive = Path(path).absolute().is_relative_to(DRIVE)
    if on_drive and find_platform() == "colab" and not os.path.ismount(DRIVE.resolve()):
        raise UserError("Google Drive is not mounted any more. Run all of part 2, then this cell.")


def drive_folder(folder: str) -> Path | None:
    """Make and return a folder; None if "". In Colab, warn of what is lost with the session."""
    in_colab = find_platform() == "colab"
    if not folder:
        if in_colab:
            drive = DRIVE / "MyDrive" / "roco"
            print("NOTE: DRIVE_DIR is empty, so features, training and captions are lost when this "
                  f"session ends. To keep them: DRIVE_DIR = '{drive}'.")  # fmt: skip
        return None
    place = Path(folder).expanduser().absolute()
    real = place.resolve()
    mounted = any(map(os.path.ismount, (real, *real.parents[:-1])))  # Drive, or a bucket
    if in_colab and not mounted:
        print(f"WARNING: DRIVE_DIR ({place}) is not on Google Drive, so its files go when this "
              f"session ends. Choose a folder in {DRIVE / 'MyDrive'}.")  # fmt: skip
    return make_folder(place)
