"""Several decoders that speak as one: before each word, the mean of their probabilities."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras import ops

from roco_caption.model import Captioning, Step


class Ensemble:
    """Decoders of one vocabulary, trained from different seeds, in place of one `Captioning`.

    The members' mistakes differ more than what they have learned, so that their mean is better
    than each (Hansen and Salamon 1990, "Neural Network Ensembles"). It costs as many times the
    training and decoding as there are members.

    Args:
        members: one or more; all with attention or all without.
    """

    def __init__(self, members: Sequence[Captioning]) -> None:
        self.members = list(members)

    def start(self, features: Any, *, blank: bool = False) -> tuple[Step, Any, Any]:
        """Return the step of all together and what it starts from; see `Captioning.start`."""
        steps, states, images = zip(
            *(member.start(features, blank=blank) for member in self.members), strict=True
        )

        def step(tokens: Any, state: Any, image: Any) -> tuple[Any, Any]:
            results = [
                step(tokens, *parts) for step, *parts in zip(steps, state, image, strict=True)
            ]
            log_ps = ops.stack([ops.log_softmax(logits, axis=-1) for logits, _ in results])
            mean = ops.logsumexp(log_ps, axis=0) - math.log(len(steps))
            return mean, tuple(state for _, state in results)

        return step, states, images

    @property
    def rates_cells(self) -> bool:
        """Whether the members' concepts tell which of the image's parts speak for a word."""
        return self.members[0].rates_cells


def member_folder(folder: str | os.PathLike, k: int) -> Path:
    """Return where the training of member `k` lies: that of the first is the run's own folder."""
    return Path(folder) / f"member{k + 1}" if k else Path(folder)


def members_of(captioning: Captioning | Ensemble) -> list[Captioning]:
    """Return an ensemble's members, or the one decoder that there is."""
    return captioning.members if isinstance(captioning, Ensemble) else [captioning]
