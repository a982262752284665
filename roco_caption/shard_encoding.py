"""Images of a folder or an object store to one shard of features: what each worker does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from roco_caption import runtime
from roco_caption.encoders import build_encoder
from roco_caption.encoding import encode_files, on_each_device
from roco_caption.feature_table import to_float16
from roco_caption.files import UserError, first_line
from roco_caption.images import ImageError, read_image
from roco_caption.locks import lock
from roco_caption.shards import filesystem, is_local, write_shard

SUFFIXES = "", ".bmp", ".dcm", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"
FETCHES = 64  # images fetched from an object store at once, by each worker


def find_images(url: str) -> dict[str, str]:
    """Return the image files at or below a folder or URL, {id: path}, in the order of their paths.

    Raises:
        UserError: there is none, or two have one id.
    """
    fs, place = filesystem(url)
    found: dict[str, str] = {}
    for path in sorted(fs.find(place)):
        name = PurePosixPath(path)
        if name.suffix.lower() not in SUFFIXES or name.name.startswith("."):
            continue
        if name.stem in found:
            raise UserError(f"{path} and {found[name.stem]} have one id. Rename one of them.")
        found[name.stem] = path
    if not found:
        raise UserError(f"No image files ({', '.join(SUFFIXES[1:])}) below {url}.")
    return found


class ShardWorker:
    """What one worker does: reads and encodes images as one machine would, writes a shard."""

    def __init__(self, options: dict[str, Any]) -> None:
        machine = runtime.detect()
        header = options["header"]
        wanted, precision = header["requested"], options["precision"] or machine.precision
        with lock(
            Path(tempfile.gettempdir()) / "roco-caption-weights" / ".lock", "loading weights"
        ):
            self.models = on_each_device(
                lambda: build_encoder(
                    header["name"], **wanted, precision=precision, with_grid="grid" in header
                )
            )
        self.options = options
        fs, _ = filesystem(options["images"])
        self.reading = {} if is_local(fs) else {"read": fetching(fs), "workers": FETCHES}

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        ids, options = list(task["ids"]), self.options
        try:
            arrays: list[list[np.ndarray]] = [[], []]
            kept: list[str] = []
            skipped: dict[str, str] = {}
            batches = encode_files(
                self.models, list(task["paths"]), options["batch_size"], **self.reading
            )
            for positions, outputs, reasons in batches:
                kept += [ids[i] for i in positions]
                skipped |= {ids[i]: reason for i, reason in reasons.items()}
                for some, output in zip(arrays, outputs, strict=False):
                    some.append(to_float16(output))
            whole = [np.concatenate(some) for some in arrays if some]
            write_shard(options["shards"], kept, whole, options["header"], skipped)
            return {"images": len(ids), "error": ""}
        except Exception as error:  # the other shards are made all the same
            return {"images": len(ids), "error": f"{type(error).__name__}: {first_line(error)}"}


def fetching(fs: Any) -> Callable[..., np.ndarray]:
    """Return what reads an image as `read_image` does, from another file system.

    An image that is not there or cannot be decoded raises `ImageError`; a network that fails
    raises its own error, so that nothing is left out for that.
    """

    def read(path: str, size: int) -> np.ndarray:
        with tempfile.NamedTemporaryFile() as file:
            try:
                fs.get_file(path, file.name)
                return read_image(file.name, size)
            except FileNotFoundError:
                raise ImageError(f"{path} is missing.") from None
            except ImageError as error:
                raise ImageError(str(error).replace(file.name, path)) from None

    return read
