"""Measure extraction, training and decoding; print one JSON object a line.

Settings from outside: `ROCO_DATA_DIR` (real images and captions instead of phantoms),
`ROCO_CAPTIONS_FILE` (a captions.txt instead of the data's own captions), `ROCO_MAX_WORDS`
(0: uncapped), `ROCO_STAGES`, and `ROCO_SECONDS` that each loop is timed for.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from roco_caption.core.backend import compiled, quiet_tensorflow
from roco_caption.core.machine import detect, setting

quiet_tensorflow()

import keras
import numpy as np

from benchmarks import captions_of, classic
from roco_caption.data.images import image_batches
from roco_caption.data.phantoms.dataset import make_phantoms
from roco_caption.data.roco import read_dataset
from roco_caption.decoder.model import Decoder, build_decoder
from roco_caption.decoder.scaler import fit_scaler
from roco_caption.features.encoder import build_encoder
from roco_caption.search.captioner import Captioner, Search
from roco_caption.text.tokenizer import PAD, CaptionTokenizer
from roco_caption.text.words import clean
from roco_caption.training.batches import Replicas, plan
from roco_caption.training.captions import CaptionData

SECONDS = setting("SECONDS", 30.0)
MAX_WORDS = setting("MAX_WORDS", 50)
DATA_DIR = setting("DATA_DIR", "")
CAPTIONS_FILE = setting("CAPTIONS_FILE", "")
STAGES = setting("STAGES", "extraction,training,decoding").split(",")
# float32, and what this machine is fastest in where that is another
PRECISIONS = tuple(dict.fromkeys(["float32", detect().precision]))
BATCHES = 64, 256  # captions a step of our training
EPOCHS = 5
ACCELERATOR = 600  # images/s, somewhat more than VGG16 in half precision may do on a T4


def rate(pieces: Iterable[int], seconds: float = SECONDS) -> float:
    """Return how many things a second come, the first two pieces left out: they are traced."""
    pieces = iter(pieces)
    next(pieces), next(pieces)
    start, count = time.perf_counter(), 0
    for size in pieces:
        count += size
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def report(name: str, ours: float, classic: float, unit: str, limit: float, **more: float) -> None:
    """Print one result, as a multiple of the classic loop and a share of the limit."""
    figures = {"ours": ours, "classic": classic, "unit": unit, "ratio": ours / classic}
    figures |= {"limit": limit, "share_of_limit": ours / limit} | more
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"name": name} | rounded), flush=True)


def matrix_product(precision: str = "float32") -> float:
    """Return the matrix product of this machine in FLOP/s, at the size it does best."""
    product, rates = compiled(lambda x: keras.ops.matmul(x, x)), []
    for size in (1024, 2048, 4096):
        a = keras.random.normal((size, size), seed=0)
        a = keras.ops.cast(a, precision.removeprefix("mixed_"))
        product(a)
        for _ in range(8):
            start = time.perf_counter()
            keras.ops.convert_to_numpy(keras.ops.cast(product(a)[0, 0], "float32"))
            rates.append(2 * size**3 / (time.perf_counter() - start))
    return max(rates)


def again(make: Callable[[], Iterable]) -> Iterable:
    """Repeat a pass for ever."""
    while True:
        yield from make()


def extraction(paths: list[Path]) -> None:
    """Images a second into VGG16's fc2."""
    encoder = build_encoder("vgg16", "random")
    plain = keras.Model(encoder.layers[-1].input, encoder.layers[-1].output)
    slow = rate(1 for _ in again(lambda: classic.extract(plain, paths)))
    for precision in PRECISIONS:
        encoder = build_encoder("vgg16", "random", precision=precision)

        def ours(encoder: keras.Model = encoder) -> Iterable[int]:
            for _, pixels, _ in image_batches(paths, batch_size=32):
                if len(pixels) == 32:
                    yield len(encoder.predict_on_batch(pixels))

        fast = rate(again(ours))
        pixels = np.zeros((32, 224, 224, 3), np.uint8)
        limit = rate(len(encoder.predict_on_batch(pixels)) for _ in again(lambda: [0]))
        report(f"extraction in {precision}", fast, slow, "images/s", limit)
    # how well decoding hides behind an encoder that leaves the CPU alone
    decoded = rate((len(p) for _, p, _ in again(lambda: image_batches(paths))), 10.0)

    def simulated() -> Iterable[int]:
        due = time.perf_counter()
        for _, pixels, _ in image_batches(paths, batch_size=32):
            due = max(due, time.perf_counter()) + len(pixels) / ACCELERATOR
            yield len(pixels)
            time.sleep(max(0.0, due - time.perf_counter()))

    hidden = rate(again(simulated), 10.0)
    report("extraction, accelerator simulated", hidden, slow, "images/s", float(ACCELERATOR))
    alone = rate((1 for _ in again(lambda: map(classic.load, paths))), 5.0)
    report("decoding of images alone", decoded, alone, "images/s", alone * (os.cpu_count() or 1))


def flops(words: float, vocab_size: int, embedding: int = 256, units: int = 256) -> float:
    """FLOPs of a forward pass over so many words, padding not counted."""
    return 2.0 * words * (4 * units * (embedding + units) + units * units + units * vocab_size)


def train(features: np.ndarray, tokens: np.ndarray, sizes: dict) -> Decoder:
    """Captions a second in training, each of our batch sizes against the better classic one."""
    slow = {}
    words = int((tokens != PAD).sum()) - len(tokens)
    for batch_size in (32, 64):
        model = classic.model(build_decoder(**sizes).next_word)
        model.compile(keras.optimizers.AdamW(1e-3), "categorical_crossentropy", jit_compile=False)

        def steps(model: keras.Model = model, batch_size: int = batch_size) -> Iterable[int]:
            batches = classic.prefix_batches(features, tokens, batch_size, sizes["vocab_size"])
            for inputs, targets in batches:
                model.train_on_batch(inputs, targets)
                yield len(targets)

        # by samples, one for each word: the captions that the time reaches may be long or short
        slow[batch_size] = rate(again(steps)) * len(tokens) / words
    products = {precision: matrix_product(precision) for precision in PRECISIONS}
    for precision, batch_size in itertools.product(PRECISIONS, BATCHES):
        product = products[precision]
        limit = len(tokens) * product / (3 * flops(words, sizes["vocab_size"]))
        decoder = build_decoder(**sizes)
        scaler = decoder.parts["scaler"]
        scaler.set_weights(fit_scaler(features, scaler.components))
        rated, model = CaptionData(features, tokens).rated(decoder).features, decoder.every_word
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
        model.compile(keras.optimizers.AdamW(2e-3), loss, jit_compile=False)
        replicas, seconds = Replicas(decoder, precision=precision), []
        for epoch in range(EPOCHS + 1):  # the first one compiles
            start = time.perf_counter()
            lengths = (tokens != PAD).sum(axis=1)
            for rows in plan(lengths, batch_size=batch_size, seed=0, epoch=epoch):
                batch, _ = replicas.batch(rated, tokens, rows)
                loss = replicas.train_on_batch(*batch)
            float(loss)
            seconds.append(time.perf_counter() - start)
        report(
            f"training in {precision}, batches of {batch_size}",
            len(tokens) / statistics.median(seconds[1:]), max(slow.values()), "captions/s", limit,
            classic_batch=max(slow, key=slow.get), vocab_size=sizes["vocab_size"],
            words_a_caption=words / len(tokens), matrix_gflops=product / 1e9,
        )  # fmt: skip
    return decoder


def decode(captioner: Captioner, features: np.ndarray, product: float) -> None:
    """Words a second in decoding, ends counted."""
    tokenizer, model = captioner.tokenizer, captioner.decoder.next_word
    loops = again(lambda: classic.greedy(model, features, tokenizer.max_words))
    slow = rate(len(words) for words in loops)
    for name, search in {
        "greedy decoding": Search(beams=1, no_repeat=0),
        "beam of 3 decoding": Search(beams=3),
    }.items():

        def words(search: Search = search) -> Iterable[int]:
            captions = captioner.caption_features(features, search)
            yield sum(len(caption.text.split()) + 1 for caption in captions)

        # a word's part of the gates is looked up
        limit = product / (search.beams * flops(1, tokenizer.vocab_size, embedding=0))
        report(name, rate(again(words), 10.0), slow, "words/s", limit)
    loops = classic.greedy(model, features, tokenizer.max_words)
    expected = [tokenizer.decode(words) for _, words in zip(range(20), loops, strict=False)]
    found = captioner.caption_features(features[:20], Search(beams=1, no_repeat=0))
    if [caption.text for caption in found] != expected:
        raise SystemExit("greedy decoding differs from the classic loop's")


def main() -> None:
    """Measure the stages on one data set."""
    with tempfile.TemporaryDirectory() as folder:
        counts = {"train": 600, "validation": 48, "test": 150}
        captions, paths = [], []
        if CAPTIONS_FILE:
            captions = captions_of(CAPTIONS_FILE)
        if not captions or "extraction" in STAGES:
            root = DATA_DIR or make_phantoms(folder, **counts, progress=False)
            frame = read_dataset(root)[0]["train"]
            captions, paths = captions or list(frame.caption), list(map(Path, frame.image))
        if "extraction" in STAGES:
            extraction(paths)
        if not {"training", "decoding"} & {*STAGES}:
            return
        max_words = MAX_WORDS or max(len(clean(caption)) for caption in captions)
        tokenizer = CaptionTokenizer.fit(captions, max_words=max_words)
        tokens = tokenizer.encode(captions)
        features = np.random.default_rng(0).normal(size=(len(tokens), 4096)).astype(np.float16)
        sizes = {"vocab_size": tokenizer.vocab_size, "max_len": max_words + 1}
        decoder = train(features, tokens, sizes)
        if "decoding" in STAGES:
            captioner = Captioner(decoder, tokenizer)
            decode(captioner, features, matrix_product())


if __name__ == "__main__":
    main()
