"""Captions radiology images: `python -m roco_caption caption FOLDER`, or `demo` for a page."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from roco_caption.core.backend import chatter_left_out
from roco_caption.core.errors import UserError
from roco_caption.core.files import cannot_write, make_folder
from roco_caption.core.machine import detect
from roco_caption.search.captions_table import CaptionsTable
from roco_caption.search.folder import caption_files, image_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code: 1 after a UserError, which is printed."""
    parser = argparse.ArgumentParser("python -m roco_caption", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="caption or demo")
    about = "Captions images and folders of images (JPEG, PNG, TIFF, DICOM) into a CSV file."
    command = commands.add_parser("caption", help=about, description=f"{about} Its columns are "
        "file, caption, log_probability and error; an image that cannot be decoded has an error "
        "and no caption. For research and teaching. Not for clinical use.")  # fmt: skip
    command.set_defaults(action=_caption)
    add = command.add_argument
    add("images", nargs="+", metavar="FOLDER_OR_FILE", help="sub-folders are included")
    add("--out", default="captions.csv", type=Path, help="the table; .xlsx for Excel, .tsv with "
        "tabs, else a CSV file; an existing file is never replaced without --overwrite "
        "(default: %(default)s)")  # fmt: skip
    existing = command.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace the table if it exists")
    existing.add_argument("--resume", action="store_true", help="continue an existing table: add "
        "images that it lacks or that had an error, named as before")  # fmt: skip
    add("--beams", type=int, help="beam width (default: the run's)")
    about = "Starts a web page that captions images dropped on it, and keeps none of them."
    page = commands.add_parser("demo", help=about, description=f"{about} Not for clinical use.")
    page.set_defaults(action=_demo)
    page.add_argument("--port", type=int, help="default: the first free one from 7860")
    page.add_argument("--share", action="store_true", help="also make a public link, by Gradio")
    for each in (command, page):
        each.add_argument("--run", default="checkpoints", help="folder of a run; of a folder of "
            "runs, the newest is taken (default: %(default)s)")  # fmt: skip
        each.add_argument("--weights", help="where the encoder's weights file is now, if moved")
    options = parser.parse_args(arguments)
    try:
        return options.action(options)
    except UserError as error:
        print(f"roco_caption: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells expect


def _captioner(options: argparse.Namespace) -> Any:
    detect()
    with chatter_left_out():
        from roco_caption.search.bundle import run_of
        from roco_caption.search.captioner import Captioner
        from roco_caption.training.checkpoint import BUNDLE

        options.run = run_of(options.run)
        captioner = Captioner.load(options.run / BUNDLE, options.weights)
        captioner.encoder_model  # noqa: B018  what it lacks is noticed now
    return captioner


def _demo(options: argparse.Namespace) -> int:
    from roco_caption.show.demo import demo, load_gradio

    os.environ["MPLBACKEND"] = "agg"  # pages are drawn outside of the main thread
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # which no other user can read
        load_gradio()
        captioner = _captioner(options)
        from roco_caption.search.bundle import is_synthetic

        synthetic = is_synthetic(options.run)
        page = demo(captioner, synthetic=synthetic, port=options.port, share=options.share)
        page.block_thread()
    return 0


def _caption(options: argparse.Namespace) -> int:
    allowed = {"overwrite": options.overwrite, "resume": options.resume}
    table = CaptionsTable(options.out.expanduser(), **allowed)
    files = image_files(*options.images)
    new = table.remaining(files)
    captioner = _captioner(options) if new else None
    if captioner is not None and options.beams is not None:
        captioner.search = replace(captioner.search, beams=options.beams)
    make_folder(table.out.parent)
    if captioner is not None:
        table.refuse_another(lambda files: next(caption_files(captioner, files)))
    try:
        if captioner is not None:
            for rows in caption_files(captioner, new):
                table.add(rows)  # batch by batch, so that an interruption loses none
        table.complete()
    except OSError as error:
        raise cannot_write(table.out, error) from error
    finally:
        done, failed = table.counts()
        if done:
            print(f"{table.path} has {done:,} of {len(files):,} images, {failed:,} of them without "
                  "a caption (see the column error).")  # fmt: skip
    return int(failed == done)


if __name__ == "__main__":
    sys.exit(main())
