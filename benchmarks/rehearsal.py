"""`make rehearsal`: an epoch and a decoding of the test split at ROCO's size, and their memory.

The features are synthetic, which changes neither time nor memory; the captions are drawn from
`ROCO_CAPTIONS_FILE` (tab-separated, the caption last) or else are phantoms'. Prints a JSON object
for half of ROCO and one for all of it: what is there twice should take twice as long.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd

from roco_caption.core.machine import detect, setting

TRAINING, TEST = 65_450, 8_180  # ROCO's radiology images that can be read


def captions(count: int) -> list[str]:
    """Draw captions, with replacement where there are fewer."""
    path = setting("CAPTIONS_FILE", "")
    if path:
        known = list(pd.read_csv(path, sep="\t", header=None, quoting=3).iloc[:, -1])
    else:
        from roco_caption.data.phantoms.dataset import make_phantoms
        from roco_caption.data.roco import read_dataset

        with tempfile.TemporaryDirectory() as folder:
            root = make_phantoms(folder, train=600, validation=8, test=8, progress=False)
            known = list(read_dataset(root)[0]["train"].caption)
    return list(np.random.default_rng(0).choice(known, count))


def rehearse(share: float) -> dict[str, float]:
    """Train an epoch and decode as the notebook does; return seconds, and gigabytes at most."""
    import resource

    from roco_caption.decoder.model import build_decoder, fit_scalers
    from roco_caption.search.captioner import Captioner, Search
    from roco_caption.search.rerank import Consensus, match_length
    from roco_caption.text.tokenizer import CaptionTokenizer
    from roco_caption.training.loop import CaptionData, train

    rng, n = np.random.default_rng(0), int(TRAINING * share)
    features = np.empty((n, 4096), np.float16)
    for start in range(0, n, 4096):
        features[start : start + 4096] = rng.gamma(0.5, 1.0, features[start : start + 4096].shape)
    texts, seconds = captions(n), {}

    def timed(name: str, since: float) -> None:
        seconds[name] = round(time.perf_counter() - since, 1)

    start = time.perf_counter()
    tokenizer = CaptionTokenizer.fit(texts, min_frequency=3, max_words=50)
    tokens = tokenizer.encode(texts)
    timed("words", start)
    start = time.perf_counter()
    decoder = build_decoder(vocab_size=tokenizer.vocab_size, max_len=51, mentions=1.0)
    fit_scalers([decoder], features, tokens)
    timed("scaler", start)
    few = CaptionData(features[:1024], tokens[:1024])
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        learn, precision = CaptionData(features, tokens), detect().precision
        train(decoder, learn, few, folder, epochs=1, batch_size=256, precision=precision)
    timed("epoch", start)
    start = time.perf_counter()
    consensus = Consensus.fit(decoder, features, tokens)
    timed("consensus", start)
    start = time.perf_counter()
    captioner = Captioner(decoder, tokenizer, Search(20, neighbours=10), consensus)
    captioner.search = match_length(captioner, few.features, few.tokens)
    timed("length", start)
    test = features[: int(TEST * share)]
    start = time.perf_counter()
    found = captioner.caption_features(test)
    timed("decoding", start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return seconds | {
        "training_captions": n, "test_captions": len(found), "vocab_size": tokenizer.vocab_size,
        "words_decoded": sum(len(caption.text.split()) + 1 for caption in found),
        "features_gb": round(features.nbytes / 2**30, 2), "peak_memory_gb": round(peak, 2),
    }  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(rehearse(float(sys.argv[1]))), flush=True)
    else:
        for part in ("0.5", "1"):  # a process each, for its peak of memory
            subprocess.run([sys.executable, "-m", "benchmarks.rehearsal", part], check=True)
