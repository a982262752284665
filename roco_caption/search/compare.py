"""Captions of the test images, by the model and by what it is compared with, and their scores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from roco_caption.core.errors import UserError
from roco_caption.core.files import write_text
from roco_caption.features.inputs import Inputs, mean_image
from roco_caption.scores import baselines
from roco_caption.scores.coherence import Coherence
from roco_caption.scores.table import score_table
from roco_caption.search.beam import Search
from roco_caption.search.captioner import Captioner
from roco_caption.training.checkpoint import CAPTIONS, CARD, SCORES

COMPARED = ["id", "reference", "caption"]  # of a run's captions
SHUFFLED = f"images shuffled (mean of {baselines.RUNS})"


def caption_test_images(
    captioner: Captioner, inputs: Inputs, folder: str | os.PathLike
) -> pd.DataFrame:
    """Caption the test images, and write `captions.csv` into the run's folder.

    Scores of other captions there are removed. UserError if the inputs are not the captioner's.
    Returns DataFrame[id, reference, caption, log_probability], one row per image; and `coherence`.
    """
    inputs.refuse_members(*captioner.decoder.members)
    captions = inputs.frames["test"][["id", "caption"]].rename(columns={"caption": "reference"})
    captions[["caption", "log_probability"]] = captioner.caption_features(inputs.features["test"])
    fitted = Coherence.fit(list(inputs.frames["train"].caption))
    captions = captions.join(fitted.judge(captions.caption))
    folder = Path(folder)
    if not _are_written(captions, folder):
        for name in (SCORES, CARD):
            (folder / name).unlink(missing_ok=True)
    write_text(folder / CAPTIONS, captions.to_csv(index=False))
    return captions


def _are_written(captions: pd.DataFrame, folder: Path) -> bool:
    """Return whether a run's `captions.csv` has these captions of these images."""
    with suppress(OSError, ValueError):
        read = pd.read_csv(folder / CAPTIONS, dtype=str, keep_default_na=False)
        there, here = (t.reindex(columns=COMPARED).to_numpy().tolist() for t in (read, captions))
        return there == [list(map(str, row)) for row in here]
    return False


def caption_by_baselines(
    captioner: Captioner, inputs: Inputs, captions: Sequence[str]
) -> dict[str, Any]:
    """Return the model's `captions` of the test images and those that they are compared with.

    Returns {system: n captions, or several runs of n captions}, the model first. UserError if the
    inputs are not the captioner's.
    """
    inputs.refuse_members(*captioner.decoder.members)
    captions, vectors, n = list(captions), inputs.vectors, len(captions)
    greedy = captioner.caption_features(inputs.features["test"], Search(beams=1, no_repeat=0))
    average = captioner.caption_features(mean_image(inputs.features["train"]))[0].text
    runs = baselines.shuffled_captions(captions, inputs.cases["test"])
    frame, train, once = inputs.frames["train"], vectors["train"], inputs.once
    train = train if len(once) == len(frame) else train[once]
    nearest = baselines.neighbours(train, vectors["test"], baselines.NEAREST)
    known = list(frame.caption.iloc[once])
    return {
        "this model": captions,
        "this model, greedy": [caption.text for caption in greedy],
        **({SHUFFLED: runs} if runs else {}),
        "average image for all": [average] * n,
        "nearest image's caption": [known[i] for i in nearest[:, 0]],
        "consensus of the nearest": baselines.consensus_captions(known, nearest),
        "most frequent caption": [Counter(frame.caption).most_common(1)[0][0]] * n,
    }


def score(
    systems: Mapping[str, Any], inputs: Inputs, folder: str | os.PathLike, *, seed: int = 1
) -> pd.DataFrame:
    """Score systems with `score_table`, and write `scores.csv`, with columns for `coherence`.

    UserError if the run's folder lacks the captions, or has another model's or other images'.
    """
    known, captions = list(inputs.frames["train"].caption), list(next(iter(systems.values()), []))
    test = inputs.frames["test"][["id", "caption"]].rename(columns={"caption": "reference"})
    if len(captions) != len(test) or not _are_written(test.assign(caption=captions), Path(folder)):
        raise UserError(
            f"{Path(folder) / CAPTIONS} does not have the captions to be scored. Run the cells "
            "from part 8 on (`make_captioner`) again."
        )
    table = score_table(
        inputs.references, systems, groups=inputs.cases["test"], seed=seed, train_captions=known
    )
    fitted = Coherence.fit(known)
    rates = {s: fitted.judge(pd.Series(c).explode()).mean() for s, c in systems.items()}
    write_text(Path(folder) / SCORES, table.join(pd.DataFrame(rates).T).to_csv())
    return table
