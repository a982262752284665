"""Captions radiology images from the command line: `python -m roco_caption caption FOLDER`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from roco_caption.core.backend import chatter_left_out
from roco_caption.core.errors import UserError
from roco_caption.core.files import cannot_write, make_folder
from roco_caption.core.machine import detect
from roco_caption.search.folder import caption_files, image_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code: 1 after a UserError, which is printed."""
    parser = argparse.ArgumentParser("python -m roco_caption", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="caption")
    about = "Captions images and folders of images (JPEG, PNG, TIFF, DICOM) into a CSV file."
    command = commands.add_parser("caption", help=about, description=f"{about} Its columns are "
        "file, caption, log_probability and error; an image that cannot be decoded has an error "
        "and no caption. For research and teaching. Not for clinical use.")  # fmt: skip
    add = command.add_argument
    add("images", nargs="+", metavar="FOLDER_OR_FILE", help="sub-folders are included")
    add("--run", default="checkpoints", help="folder of a run; of a folder of runs, the newest is "
        "taken (default: %(default)s)")  # fmt: skip
    add("--out", default="captions.csv", type=Path, help="the table; .xlsx for Excel, .tsv with "
        "tabs, else a CSV file (default: %(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the table if it exists")
    add("--beams", type=int, help="beam width (default: the run's)")
    add("--weights", help="where the encoder's weights file is now, if it was moved")
    try:
        return _caption(parser.parse_args(arguments))
    except UserError as error:
        print(f"roco_caption: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells expect


def _caption(options: argparse.Namespace) -> int:
    out = options.out.expanduser()
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists. Choose another --out, or replace it with --overwrite.")
    excel = out.suffix.lower() == ".xlsx"
    if excel and not find_spec("openpyxl"):
        raise UserError(f"{out} needs openpyxl. Run `pip install openpyxl`, or name a .csv file.")
    files = image_files(*options.images)
    detect()
    with chatter_left_out():
        from roco_caption.search.captioner import BATCH, Captioner

        captioner = Captioner.load(options.run, options.weights)
        if options.beams is not None:
            captioner.search = replace(captioner.search, beams=options.beams)
        captioner.encoder_model  # noqa: B018  what it lacks is noticed now
    make_folder(out.parent)
    text = out.with_suffix(".xlsx.csv") if excel else out
    separator = "\t" if out.suffix.lower() == ".tsv" else ","
    done = failed = 0
    try:
        for table in caption_files(captioner, files, batch_size=BATCH):
            # added batch by batch, so that an interruption loses no rows
            table.to_csv(
                text, mode="a" if done else "w", header=not done, index=False, sep=separator,
                float_format="%.5f", encoding="utf-8-sig", errors="backslashreplace",
            )  # fmt: skip
            done, failed = done + len(table), failed + int((table.caption.fillna("") == "").sum())
        if excel:
            pd.read_csv(text).to_excel(out, index=False)
            text.unlink()
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        if done:
            place = text if text.exists() else out
            print(f"{place} has {done:,} of {len(files):,} images, {failed:,} of them without a "
                  "caption (see the column error).")  # fmt: skip
    return int(failed == done)


if __name__ == "__main__":
    sys.exit(main())
