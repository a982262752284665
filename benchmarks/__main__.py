"""Measure extraction, training and decoding; print one JSON object a line.

Settings from outside: `ROCO_DATA_DIR` (real captions and images instead of phantoms),
`ROCO_MAX_WORDS`, and `ROCO_SECONDS` that each loop is timed for.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from roco_caption.runtime import compiled, quiet_tensorflow, setting

quiet_tensorflow()

import keras  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import classic  # noqa: E402
from roco_caption import training  # noqa: E402
from roco_caption.batches import plan, take  # noqa: E402
from roco_caption.captioner import Captioner, Search  # noqa: E402
from roco_caption.dataset import read_dataset  # noqa: E402
from roco_caption.encoders import build_encoder  # noqa: E402
from roco_caption.images import image_batches  # noqa: E402
from roco_caption.model import build_captioning, fit_scaler  # noqa: E402
from roco_caption.phantoms import make_phantoms  # noqa: E402
from roco_caption.text import PAD, CaptionTokenizer  # noqa: E402

SECONDS = setting("SECONDS", 30.0)
MAX_WORDS = setting("MAX_WORDS", 50)
DATA_DIR = setting("DATA_DIR", "")
BATCH = 256  # captions a step of our training


def rate(pieces: Iterable[int], seconds: float = SECONDS) -> float:
    """Return how many things a second come, the first piece left out as warm-up."""
    pieces = iter(pieces)
    next(pieces)
    start, count = time.perf_counter(), 0
    for size in pieces:
        count += size
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def report(name: str, ours: float, classic: float, unit: str, **more: float | str) -> None:
    """Print one result."""
    figures = {"ours": ours, "classic": classic, "unit": unit, "ratio": ours / classic} | more
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"name": name} | rounded), flush=True)


def matrix_product() -> float:
    """Return the measured float32 matrix product of this machine in FLOP/s."""
    a = keras.ops.ones((4096, 4096))
    product = compiled(lambda x: keras.ops.matmul(x, x))
    product(a)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.asarray(product(a)[0, 0])
        times.append(time.perf_counter() - start)
    return 2 * 4096**3 / min(times)


def again(make: Callable[[], Iterable]) -> Iterable:
    """Repeat a pass for ever."""
    while True:
        yield from make()


def extraction(paths: list[Path]) -> None:
    """Images a second into VGG16's fc2, in float32."""
    encoder = build_encoder("vgg16", "random")
    plain = keras.Model(encoder.layers[-1].input, encoder.layers[-1].output)
    slow = rate(1 for _ in again(lambda: classic.extract(plain, paths)))

    def ours() -> Iterable[int]:
        for _, pixels, _ in image_batches(paths, batch_size=32):
            if len(pixels) == 32:
                yield len(encoder.predict_on_batch(pixels))

    fast = rate(again(ours))
    pixels = np.zeros((32, 224, 224, 3), np.uint8)
    limit = rate(len(encoder.predict_on_batch(pixels)) for _ in again(lambda: [0]))
    report("extraction", fast, slow, "images/s", limit=limit, share_of_limit=fast / limit)
    decoded = rate((len(p) for _, p, _ in again(lambda: image_batches(paths))), 5.0)
    report("decoding of images alone", decoded, slow, "images/s")


def useful_flops(tokens: int, vocab_size: int, embedding: int = 256, units: int = 256) -> float:
    """FLOPs of a training pass over so many words, padding not counted."""
    forward = 2 * (4 * units * (embedding + units) + units * units + units * vocab_size)
    return 3.0 * forward * tokens


def train(features: np.ndarray, tokens: np.ndarray, sizes: dict) -> Captioner:
    """Captions a second in training."""
    slow = {}
    for batch_size in (32, 64):
        model = build_captioning(**sizes).next_word
        model.compile(keras.optimizers.AdamW(1e-3), "categorical_crossentropy", jit_compile=False)

        def steps(model: keras.Model = model, batch_size: int = batch_size) -> Iterable[int]:
            batches = classic.prefix_batches(features, tokens, batch_size, sizes["vocab_size"])
            for inputs, targets in batches:
                model.train_on_batch(inputs, targets)
                yield batch_size

        slow[batch_size] = rate(again(steps))
    captioning = build_captioning(**sizes)
    captioning.next_word.get_layer("scaler").set_weights(fit_scaler(features))
    model = captioning.every_word
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model.compile(keras.optimizers.AdamW(2e-3), loss, jit_compile=False)
    lengths, seconds = (tokens != PAD).sum(axis=1), []
    for epoch in range(6):
        start = time.perf_counter()
        for rows in plan(lengths, batch_size=BATCH, seed=0, epoch=epoch):
            training._step(model.train_on_batch, model, take(features, tokens, rows))
        seconds.append(time.perf_counter() - start)
    epoch_seconds = statistics.median(seconds[1:])
    product = matrix_product()
    share = useful_flops(int((lengths - 1).sum()), sizes["vocab_size"]) / epoch_seconds / product
    report(
        "training", len(tokens) / epoch_seconds, max(slow.values()), "captions/s",
        classic_batch=max(slow, key=slow.get), share_of_limit=share, matrix_gflops=product / 1e9,
        vocab_size=sizes["vocab_size"],
    )  # fmt: skip
    return Captioner(captioning, None, sizes=sizes, encoder={})


def decode(captioner: Captioner, features: np.ndarray, tokenizer: CaptionTokenizer) -> None:
    """Words a second in decoding, ends counted."""
    captioner.tokenizer = tokenizer
    model = captioner.captioning.next_word
    loops = again(lambda: classic.greedy(model, features, tokenizer.max_words))
    slow = rate(len(words) for words in loops)
    for name, search in {
        "greedy decoding": Search(beams=1, no_repeat=0),
        "beam of 3 decoding": Search(beams=3),
    }.items():

        def words(search: Search = search) -> Iterable[int]:
            for start in range(0, len(features), 128):
                captions = captioner.caption_features(features[start : start + 128], search)
                yield sum(len(caption.text.split()) + 1 for caption in captions)

        report(name, rate(again(words), 10.0), slow, "words/s")
    expected = [
        tokenizer.decode(words)
        for _, words in zip(
            range(20), classic.greedy(model, features, tokenizer.max_words), strict=False
        )
    ]
    found = captioner.caption_features(features[:20], Search(beams=1, no_repeat=0))
    assert [caption.text for caption in found] == expected, (
        "greedy decoding is not the classic loop"
    )


def main() -> None:
    """Measure all stages on one data set."""
    with tempfile.TemporaryDirectory() as folder:
        counts = {"train": 600, "validation": 48, "test": 150}
        root = DATA_DIR or make_phantoms(folder, **counts, progress=False)
        frames, _ = read_dataset(root)
        extraction([Path(image) for image in frames["train"].image])
        tokenizer = CaptionTokenizer.fit(frames["train"].caption, max_words=MAX_WORDS)
        tokens = tokenizer.encode(frames["train"].caption)
        rng = np.random.default_rng(0)
        features = rng.normal(size=(len(tokens), 4096)).astype(np.float16)
        sizes = {"vocab_size": tokenizer.vocab_size, "max_len": MAX_WORDS + 1}
        captioner = train(features, tokens, sizes)
        decode(captioner, features, tokenizer)


if __name__ == "__main__":
    main()
