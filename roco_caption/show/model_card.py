"""Writes a model card beside a captioner, from the files of its run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from roco_caption import __version__
from roco_caption.core.errors import UserError
from roco_caption.core.files import read_json, write_text
from roco_caption.search.bundle import BUNDLE, is_synthetic
from roco_caption.training.checkpoint import CARD, HISTORY, SCORES, member_folders
from roco_caption.training.runs import RECORD, commits_of

PHANTOM_LICENCE = "Phantoms: synthetic radiology images, drawn by roco_caption (MIT)."
ROCO_LICENCE = """\
ROCO, the radiology part of Kaggle's `virajbagal/roco-dataset` (Pelka et al. 2018, doi
10.1007/978-3-030-01364-6_20). Its Kaggle page says CC0, but each image keeps the licence of the
article that it comes from (CC BY, CC BY-NC, CC BY-NC-ND and others, in `licences.txt`)."""
USE = """\
## Intended use

Research and teaching: how captions are learned from images, and how far they can be trusted.
**Not for clinical use**: not for diagnosis, reports, triage or any decision about a patient.

## Limits

- A small decoder learned from the training images' captions. Its own can be fluent and wrong,
  including side, numbers and negation. A high probability does not mean that a caption is right.
- If the systems that see another image, or none, score nearly as well, the captions hardly depend
  on the image.
- The model is untested on images from other sources, devices or patient groups."""
SYNTHETIC_LIMIT = """
- It was trained only on synthetic images: its captions of real images are meaningless."""


def write_model_card(folder: str | os.PathLike) -> Path:
    """Write `model_card.md` into a run's folder and return its path.

    UserError if `settings.json`, `captioner.json`, `history.csv` or `scores.csv` is missing or
    damaged.
    """
    folder = Path(folder)
    bundle, record = read_json(folder / BUNDLE), read_json(folder / RECORD)
    if not {"data", "captions"} <= record.keys():
        raise UserError(f"{folder / RECORD} is not the notebook's. Run its part 7 again.")
    data, synthetic = record["data"], is_synthetic(folder)
    places = member_folders(folder, bundle.get("members", 1))
    histories = [_read_table(place / HISTORY) for place in places]
    scores = _read_table(folder / SCORES)
    licence = f"`{data}`, provided by the user of this run, who must state its licence."
    if synthetic or data == "roco":
        licence = PHANTOM_LICENCE if synthetic else ROCO_LICENCE
    table = pd.DataFrame(index=scores.index)
    for name in ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-4"):
        rows = scores[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        table[name] = ["{:.3f} [{:.3f}, {:.3f}]".format(*row) for row in rows]
    table["p"] = ["" if pd.isna(p) else f"{p:.3f}" for p in scores["p_vs_first"]]
    commits = commits_of(folder)
    at = f" (commit {', then '.join(commits)})" if commits else ""
    parts = [
        "# Model card: captions for radiology images",
        f"Written by roco_caption {__version__}{at} from the files of the run in this folder.",
        "## Model",
        f"- Decoder: {_decoder(bundle['sizes'], histories)}.\n"
        f"- Features: {_features(bundle['encoder'])}.\n- Search: {_search(bundle['search'])}.",
        "## Data and licence",
        licence,
        _markdown(pd.DataFrame({"captions": record["captions"]}).rename_axis("split")),
        "## Scores on the test split",
        "Each with its 95 % bootstrap interval; `p` tests CIDEr against this model's.",
        _markdown(table),
        USE + SYNTHETIC_LIMIT if synthetic else USE,
    ]
    write_text(folder / CARD, "\n\n".join(parts) + "\n")
    return folder / CARD


def _decoder(sizes: dict[str, Any], histories: list[pd.DataFrame]) -> str:
    regions = f", attention over {sizes['grid_size'][0]} regions" if sizes.get("attention") else ""
    limit = f" (captions of at most {sizes['max_len'] - 1})" if "max_len" in sizes else ""
    trained = [
        f"trained for {len(losses)} epochs, weights of epoch {losses.idxmin()} kept (validation "
        f"loss {losses.min():.3f} nats per word)"
        for losses in (history.val_loss for history in histories)
    ]
    if len(trained) > 1:
        members = "; ".join(f"member {k}, {text}" for k, text in enumerate(trained, 1))
        trained = [f"an ensemble of {len(trained)} with averaged probabilities: {members}"]
    return (
        f"Embedding + LSTM, merged with the image after the LSTM{regions}; "
        f"{sizes['vocab_size']:,} words{limit}, {trained[0]}"
    )


def _features(encoder: dict[str, Any]) -> str:
    name, layer, weights = encoder["name"], encoder["layer"], encoder["weights"]
    text = f"{name}, {layer}, weights {weights}, in {encoder.get('precision', 'float32')}"
    if layer == "given":
        text = f"precomputed (FEATURES_FILE), without an encoder: {name}, {weights}"
    grid = encoder.get("grid_file") or encoder.get("grid")
    return f"{text}; regions from {grid}" if grid else text


def _search(search: dict[str, Any]) -> str:
    parts = {
        "end_penalty": "an end of the caption costs {:.2f} nats",
        "neighbours": "reranked by similarity to the captions of the {} nearest training images",
        "word_bonus": "a bonus of {:.3f} nats per word in that ranking",
    }
    texts = [text.format(search[name]) for name, text in parts.items() if search.get(name)]
    return ", ".join([f"beam width {search['beams']}", *texts])


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, index_col=0)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(
            f"{path} is missing or damaged ({type(error).__name__}). Run the notebook's cells that "
            "train and score again."
        ) from error


def _markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown; pandas' `to_markdown` needs another package."""
    rows = [[table.index.name, *table], ["---"] * (table.shape[1] + 1)]
    rows += [[name, *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
