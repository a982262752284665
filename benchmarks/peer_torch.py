"""The peer of `make peers`: plain PyTorch, as its tutorials write it. Needs torch, numpy, Pillow.

`python benchmarks/peer_torch.py STAGE DATA PRECISION SECONDS` prints a rate; `peers.py` calls it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAD, START, END, UNKNOWN = 0, 1, 2, 3


class Captioner(nn.Module):
    """The merge decoder: image and words are added after the LSTM."""

    def __init__(self, words: int, features: int = 4096, units: int = 256) -> None:
        super().__init__()
        self.register_buffer("components", torch.randn(features, units) / features**0.5)
        self.image, self.hidden = nn.Linear(units, units), nn.Linear(units, units)
        self.embedding = nn.Embedding(words, units, padding_idx=PAD)
        self.lstm = nn.LSTM(units, units, batch_first=True)
        self.dense = nn.Linear(units, words)
        self.drop_image, self.drop = nn.Dropout(0.1), nn.Dropout(0.5)

    def describe(self, features: torch.Tensor) -> torch.Tensor:
        return self.image(self.drop_image(features @ self.components))[:, None]

    def forward(
        self, image: torch.Tensor, tokens: torch.Tensor, state: tuple | None = None
    ) -> tuple[torch.Tensor, tuple]:
        outputs, state = self.lstm(self.drop(self.embedding(tokens)), state)
        return self.dense(torch.tanh(self.hidden(self.drop(outputs) + image))), state


class VGG16(nn.Module):
    """VGG16 up to its second dense layer."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [], 3
        for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*layers)
        self.fc1, self.fc2 = nn.Linear(512 * 49, 4096), nn.Linear(4096, 4096)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(torch.flatten(self.blocks(pixels), 1)))))


class Images(Dataset):
    """Image files as float32 (3, 224, 224)."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        pixels = np.asarray(Image.open(self.paths[i]).convert("RGB").resize((224, 224)))
        return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) - 117.0


def wait() -> None:
    """Wait for the accelerator, if there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def training(data: dict, autocast: contextlib.AbstractContextManager) -> Iterator[int]:
    """Train; yield the captions of each step."""
    model = Captioner(int(data["words"])).to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.5)
    features, tokens = torch.from_numpy(data["features"]), torch.from_numpy(data["tokens"]).long()
    ends = np.cumsum(data["sizes"])
    while True:
        for rows in np.split(data["order"], ends[:-1]):
            longest = int((data["tokens"][rows] != PAD).sum(1).max())
            batch = tokens[rows, :longest].to(DEVICE)
            optimizer.zero_grad()
            with autocast:
                image = model.describe(features[rows].float().to(DEVICE))
                logits, _ = model(image, batch[:, :-1])
                loss = F.cross_entropy(
                    logits.flatten(0, 1).float(), batch[:, 1:].flatten(), ignore_index=PAD
                )
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss.item()
            yield len(rows)


@torch.inference_mode()
def extraction(data: dict, autocast: contextlib.AbstractContextManager) -> Iterator[int]:
    """Encode image files; yield the images of each batch."""
    model = VGG16().to(DEVICE, memory_format=torch.channels_last).eval()
    images = Images(list(map(str, data["paths"])))
    while True:
        for pixels in DataLoader(images, batch_size=32, num_workers=2, drop_last=True):
            with autocast:
                model(pixels.to(DEVICE, memory_format=torch.channels_last))
            wait()
            yield len(pixels)


@torch.inference_mode()
def decoding(data: dict, autocast: contextlib.AbstractContextManager) -> Iterator[int]:
    """Caption features greedily, word by word; yield the images of each pass.

    An untrained model hardly ever ends a caption: all have `length` words, as ours have.
    """
    model = Captioner(int(data["words"])).to(DEVICE).eval()
    features = torch.from_numpy(data["features"][: int(data["images"])])
    while True:
        with autocast:
            image = model.describe(features.float().to(DEVICE))
            tokens, state = torch.full((len(image), 1), START, device=DEVICE), None
            for _ in range(int(data["length"])):
                logits, state = model(image, tokens, state)
                logits[..., [PAD, START, END, UNKNOWN]] = -torch.inf
                tokens = logits.argmax(-1)
        wait()
        yield len(image)


def rate(pieces: Iterator[int], seconds: float) -> float:
    """Return how many things a second come, the first two pieces left out."""
    next(pieces), next(pieces)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        count += next(pieces)
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    stage, path, precision, limit = sys.argv[1:]
    with np.load(path) as file:
        given = {name: file[name] for name in file.files}
    kind = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}.get(precision)
    context = torch.autocast(DEVICE, kind) if kind else contextlib.nullcontext()
    print(rate(globals()[stage](given, context), float(limit)))
