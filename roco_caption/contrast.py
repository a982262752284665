"""Contrast: words that the image makes more probable count more, those said of any image less."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from roco_caption.ensemble import Ensemble
from roco_caption.model import Captioning, Step

PLAUSIBLE = 0.1  # of the most probable word's probability: the least that may be chosen


def contrasted(
    captioning: Captioning | Ensemble, features: Any, weight: float
) -> tuple[Step, Any, Any]:
    """Return a decoder's step whose words are weighed against what it says of no image.

    A word that is `r` times as probable as with an image that shows what is usual everywhere
    becomes `r ** weight` times as probable; words that are not plausible anyway are left out, or
    odd ones would win (contrastive decoding: Li et al. 2023, "Contrastive Decoding: Open-ended
    Text Generation as Optimization"; the image against none: Leng et al. 2024, "Mitigating Object
    Hallucinations in Large Vision-Language Models through Visual Contrastive Decoding").

    Args:
        captioning: the decoder or decoders.
        features: as `Captioning.start` takes them.
        weight: at least 0.

    Returns:
        As `Captioning.start` does; the step's logits are such log-probabilities, not normalised.
    """
    step, state, image = captioning.start(features)
    blank_step, blank_state, blank = captioning.start(features, blank=True)

    def weighed(tokens: Any, states: Any, images: Any) -> tuple[Any, Any]:
        logits, state = step(tokens, states[0], images[0])
        blank_logits, blank_state = blank_step(tokens, states[1], images[1])
        log_p = ops.log_softmax(logits, axis=-1)
        gained = log_p - ops.log_softmax(blank_logits, axis=-1)
        likely = log_p >= ops.max(log_p, axis=-1, keepdims=True) + math.log(PLAUSIBLE)
        # others stay in order below, for beams that find nothing better
        return ops.where(likely, log_p + weight * gained, log_p - 20.0), (state, blank_state)

    return weighed, (state, blank_state), (image, blank)
