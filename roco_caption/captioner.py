"""The saved bundle of encoder, tokenizer and decoder that captions images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from roco_caption.consensus import Consensus
from roco_caption.encoders import build_encoder, describe
from roco_caption.ensemble import Ensemble, member_folder, members_of
from roco_caption.files import UserError, first_line, read_json, write_json
from roco_caption.images import read_image
from roco_caption.memory import memory_for
from roco_caption.model import Captioning, build_captioning
from roco_caption.sealed import verify
from roco_caption.searching import Caption, FeatureCaptioner, Search
from roco_caption.text import CaptionTokenizer
from roco_caption.training import WEIGHTS

BUNDLE = "captioner.json"
VOCABULARY = "tokenizer.json"
CONSENSUS = "consensus.pkl"


class Captioner(FeatureCaptioner):
    """Captions images.

    Args:
        captioning: the trained decoder, or an `Ensemble` of them.
        tokenizer: its vocabulary.
        sizes: the arguments that `build_captioning` made the decoder with.
        encoder: of `describe`, with `requested` weights and seed; or of features computed
            elsewhere, and then only features can be captioned.
        search: how captions are decoded unless a call says otherwise.
        consensus: the training images, for searches with `neighbours`.
    """

    def __init__(
        self,
        captioning: Captioning | Ensemble,
        tokenizer: CaptionTokenizer,
        *,
        sizes: dict[str, Any],
        encoder: dict[str, Any],
        search: Search | None = None,
        consensus: Consensus | None = None,
    ) -> None:
        super().__init__(captioning, tokenizer, search, consensus)
        self.sizes, self.encoder = sizes, encoder
        self._encoder_model: Any = None

    def caption(self, image: str | os.PathLike, search: Search | None = None) -> Caption:
        """Caption one image file.

        Raises:
            ImageError: the file holds no image that can be decoded.
            UserError: the captioner was trained on features computed elsewhere.
        """
        return self.caption_images([image], search)[0]

    def caption_images(
        self, images: Sequence[str | os.PathLike], search: Search | None = None
    ) -> list[Caption]:
        """Caption image files; see `caption`."""
        return self.caption_features(self.encode(images), search)

    def encode(self, images: Sequence[str | os.PathLike]) -> Any:
        """Return the features of image files, float32 (len(images), d); with attention a pair.

        Raises:
            ImageError: a file holds no image that can be decoded.
            UserError: the captioner was trained on features computed elsewhere.
        """
        if "image_size" not in self.encoder or "grid_file" in self.encoder:
            raise UserError(
                f"This captioner was trained on features read from a file ({self.encoder['name']}),"
                " and what made them is not known: call caption_features with features made the "
                "same way."
            )
        size = self.encoder["image_size"]
        return self._encode(np.stack([read_image(Path(image), size) for image in images]))

    def _encode(self, pixels: np.ndarray) -> Any:
        if self._encoder_model is None:
            name, wanted = self.encoder["name"], self.encoder["requested"]
            found = describe(name, **wanted)["weights"]
            if found != self.encoder["weights"]:
                raise UserError(
                    f"The captioner was trained with encoder weights {self.encoder['weights']}, "
                    f"and {wanted['weights']} holds {found}. Bring that file back."
                )
            self._encoder_model = build_encoder(name, **wanted, with_grid="grid" in self.encoder)
        with memory_for("encoding images", "If that is not enough, caption fewer at once."):
            output = self._encoder_model.predict(pixels, verbose=0)
        return tuple(output) if isinstance(output, list) else output

    def save(self, folder: str | os.PathLike) -> None:
        """Write the bundle; `Captioner.load(folder)` needs nothing else.

        Args:
            folder: of the run; `train` keeps the weights there, an ensemble's in the folders of
                `member_folder`.
        """
        folder = Path(folder)
        self.tokenizer.save(folder / VOCABULARY)
        if self.consensus is not None:
            self.consensus.save(folder / CONSENSUS)
        bundle = {
            "format": 1,
            "sizes": self.sizes,
            "encoder": self.encoder,
            "search": asdict(self.search),
            "weights": WEIGHTS,
            "members": len(members_of(self.captioning)),
            "tokenizer": VOCABULARY,
            "consensus": CONSENSUS if self.consensus is not None else None,
        }
        write_json(folder / BUNDLE, bundle, sealed=True)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Captioner:
        """Rebuild a captioner from its folder.

        Raises:
            UserError: a file of the bundle is missing, damaged, or does not fit the others.
        """
        folder = Path(folder)
        bundle = read_json(folder / BUNDLE)
        tokenizer = CaptionTokenizer.load(folder / VOCABULARY)
        try:
            sizes, encoder = bundle["sizes"], bundle["encoder"]
            search = Search(**bundle["search"])
            members = [build_captioning(**sizes) for _ in range(bundle.get("members", 1))]
            vocab_size, _ = sizes["vocab_size"], encoder["name"]
        except Exception as error:  # Keras raises many kinds for sizes that are none
            raise UserError(f"{folder / BUNDLE} describes no captioner ({error}).") from error
        if tokenizer.vocab_size != vocab_size:
            raise UserError(
                f"{folder / VOCABULARY} has {tokenizer.vocab_size} words, but the decoder was "
                f"trained with {vocab_size}. Bring back the file of that training."
            )
        for k, member in enumerate(members):
            _load_weights(member, member_folder(folder, k) / WEIGHTS)
        captioning = members[0] if len(members) == 1 else Ensemble(members)
        consensus = None
        if bundle.get("consensus"):
            consensus = Consensus.load(folder / CONSENSUS, captioning)
        return cls(
            captioning, tokenizer, sizes=sizes, encoder=encoder, search=search, consensus=consensus
        )


def _load_weights(captioning: Captioning, path: Path) -> None:
    try:
        verify(path)
        captioning.every_word.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
        raise UserError(
            f"{path} could not be loaded ({first_line(error)}). It "
            "is missing, damaged, or of another model: run the notebook's training cell "
            "again, which writes it anew, or bring back the file of that training."
        ) from error
