"""`make peers`: training, extraction and greedy decoding beside a plain PyTorch loop.

Both take turns, three rounds of a process each. Prints one JSON object a line with the medians and
all rounds. `ROCO_PEER` names the Python with PyTorch; `ROCO_CAPTIONS_FILE` (tab-separated, the
caption last) or `ROCO_DATA_DIR` the captions, else phantoms'; `ROCO_STAGES`, `ROCO_ROUNDS` and
`ROCO_SECONDS` what is measured, and how long.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from roco_caption.core.backend import quiet_tensorflow
from roco_caption.core.machine import detect, setting

quiet_tensorflow()

import keras
import numpy as np

from benchmarks import captions_of
from benchmarks.__main__ import rate
from roco_caption.data.images import image_batches
from roco_caption.data.phantoms.dataset import make_phantoms
from roco_caption.data.roco import read_dataset
from roco_caption.decoder.model import Decoder, build_decoder
from roco_caption.decoder.scaler import fit_scaler
from roco_caption.features.encoder import build_encoder
from roco_caption.search.captioner import Captioner, Search
from roco_caption.text.tokenizer import END, PAD, SPECIAL, CaptionTokenizer
from roco_caption.text.words import clean
from roco_caption.training.batches import Replicas, plan
from roco_caption.training.captions import CaptionData

ROCO_WORDS = 12_109  # ROCO's vocabulary, unused words included
STAGES = {  # what is measured: the stage, captions per batch, vocabulary (0: the captions' own)
    "training, batches of 64": ("training", 64, 0),
    "training, batches of 256, ROCO's vocabulary": ("training", 256, ROCO_WORDS),
    "greedy decoding, ROCO's vocabulary": ("decoding", 256, ROCO_WORDS),
    "extraction": ("extraction", 32, 0),
}
UNITS = {"training": "captions/s", "decoding": "captions/s", "extraction": "images/s"}
MAX_CAPTIONS = 8_192


def write_data(folder: Path, name: str) -> Path:
    """Write what both sides work on, and return the file."""
    _, batch_size, vocab_size = STAGES[name]
    if captions_file := setting("CAPTIONS_FILE", ""):
        paths = []
        captions = captions_of(captions_file)[:MAX_CAPTIONS]
    else:
        root = setting("DATA_DIR", "")
        counts = {"train": 600, "validation": 8, "test": 8}
        root = root or str(make_phantoms(folder / "images", **counts, progress=False))
        frame = read_dataset(root)[0]["train"]
        captions, paths = list(frame.caption), list(frame.image)
    longest = setting("MAX_WORDS", 50) or max(len(clean(caption)) for caption in captions)
    tokenizer = CaptionTokenizer.fit(captions, max_words=longest)
    tokens = tokenizer.encode(captions)
    batches = plan((tokens != PAD).sum(axis=1), batch_size=batch_size, seed=0, epoch=0)
    features = np.random.default_rng(0).normal(size=(len(tokens), 4096)).astype(np.float16)
    path = folder / "data.npz"
    np.savez(
        path, tokens=tokens, features=features, order=np.concatenate(batches),
        sizes=[len(rows) for rows in batches], words=vocab_size or tokenizer.vocab_size,
        paths=list(map(str, paths)), length=20, images=1024,
    )  # fmt: skip
    return path


def training(data: dict, precision: str) -> Iterator[int]:
    """Train as the notebook does; yield the captions of each step."""
    decoder = _decoder(data, data["tokens"].shape[1] - 1)
    optimizer = keras.optimizers.AdamW(2e-3, weight_decay=0.5, global_clipnorm=1.0)
    decoder.every_word.compile(optimizer, "mse", jit_compile=False)  # the loss is the step's own
    replicas = Replicas(decoder, precision=precision)
    rated = CaptionData(data["features"], data["tokens"]).rated(decoder).features
    ends = np.cumsum(data["sizes"])
    while True:
        for rows in np.split(data["order"], ends[:-1]):
            batch, _ = replicas.batch(rated, data["tokens"], rows)
            float(replicas.train_on_batch(*batch))
            yield len(rows)


def extraction(data: dict, precision: str) -> Iterator[int]:
    """Encode image files as the notebook does; yield the images of each batch."""
    encoder = build_encoder("vgg16", "random", precision=precision)
    while True:
        for _, pixels, _ in image_batches(list(map(Path, data["paths"])), batch_size=32):
            if len(pixels) == 32:
                encoder.predict_on_batch(pixels)
                yield 32


def decoding(data: dict, precision: str) -> Iterator[int]:
    """Caption features greedily; yield the images of each pass. No caption ends early."""
    length = int(data["length"])
    decoder = _decoder(data, length + 1)
    kernel, bias = decoder.parts["dense"].get_weights()
    bias[END] = -1e9
    decoder.parts["dense"].set_weights([kernel, bias])
    words = [*SPECIAL, *(f"w{i}" for i in range(int(data["words"]) - len(SPECIAL)))]
    captioner = Captioner(decoder, CaptionTokenizer(words, max_words=length - 1))  # and an end
    features, search = data["features"][: int(data["images"])], Search(beams=1, no_repeat=0)
    while True:
        yield len(captioner.caption_features(features, search))


def _decoder(data: dict, max_len: int) -> Decoder:
    decoder = build_decoder(vocab_size=int(data["words"]), max_len=max_len)
    scaler = decoder.parts["scaler"]
    scaler.set_weights(fit_scaler(data["features"], scaler.components))
    return decoder


def _one(command: list[str], *arguments: str) -> float:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, *arguments], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure all stages in each precision that this machine is fast in."""
    seconds, rounds = str(setting("SECONDS", 20.0)), setting("ROUNDS", 3)
    peer = [
        setting("PEER", ".venv-peers/bin/python"),
        str(Path(__file__).with_name("peer_torch.py")),
    ]
    ours = [sys.executable, "-m", "benchmarks.peers"]
    chosen = setting("STAGES", ",".join(UNITS)).split(",")
    for name, (stage, *_) in STAGES.items():
        if stage not in chosen or (stage == "extraction" and setting("CAPTIONS_FILE", "")):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = str(write_data(Path(folder), name))
            for precision in dict.fromkeys(["float32", detect().precision]):
                found: dict[str, list[float]] = {"ours": [], "peer": []}
                for _ in range(rounds):
                    for side, command in (("ours", ours), ("peer", peer)):
                        found[side].append(_one(command, stage, path, precision, seconds))
                middle = {side: statistics.median(rates) for side, rates in found.items()}
                shown = precision
                if stage == "decoding" and precision != "float32":
                    shown = f"ours in float32, the peer in {precision}"
                row = {"name": f"{name}, {shown}", **middle, "unit": UNITS[stage]}
                row |= {"ratio": middle["ours"] / middle["peer"]}
                row |= {f"{side}_rounds": rates for side, rates in found.items()}
                print(json.dumps(row, default=float), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        stage, path, precision, limit = sys.argv[1:]
        with np.load(path) as file:
            given = {name: file[name] for name in file.files}
        loop = {"training": training, "extraction": extraction, "decoding": decoding}[stage]
        print(rate(loop(given, precision), float(limit)))
