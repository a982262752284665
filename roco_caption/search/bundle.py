"""A captioner's files: its bundle in the run's folder, and exports to Keras and ONNX."""

from __future__ import annotations

import json
import math
import os
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.core.backend import chatter_left_out, multiplied_exactly
from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import atomic_path, read_json, write_json
from roco_caption.core.pickles import checksum, verify
from roco_caption.data.phantoms.dataset import is_set_name
from roco_caption.decoder.model import Decoder, Ensemble, build_decoder, combine
from roco_caption.features.encoder import describe, weights_path
from roco_caption.scores.coherence import Coherence
from roco_caption.search.beam import Search
from roco_caption.search.rerank import Consensus
from roco_caption.text.tokenizer import END, PAD, START, CaptionTokenizer
from roco_caption.training.checkpoint import (
    BUNDLE,
    CAPTIONS,
    CARD,
    CONSENSUS,
    SCORES,
    VOCABULARY,
    WEIGHTS,
    member_folders,
)
from roco_caption.training.runs import record_of

if TYPE_CHECKING:
    from roco_caption.search.captioner import Captioner

WORDS = "words.json"  # the member of the Keras file, and the property of the ONNX file
TOLERANCE = 1e-4  # of the largest output: sums in another order differ by less


def write_bundle(captioner: Captioner, folder: Path) -> None:
    """Write `captioner.json`, `tokenizer.json` and `consensus.npz`; `train` writes the weights.

    Captions, scores and a card of another search are removed. UserError for other weights.
    """
    _require_weights(captioner, folder)
    captioner.tokenizer.save(folder / VOCABULARY)
    if captioner.consensus is not None:
        captioner.consensus.save(folder / CONSENSUS)
    encoder, search = dict(captioner.encoder), asdict(captioner.search)
    if requested := encoder.get("requested"):  # it may be read from another working folder
        encoder["requested"] = requested | {"weights": weights_path(requested["weights"])}
    bundle = {
        "sizes": captioner.decoder.members[0].sizes,
        "encoder": encoder,
        "search": search,
        "members": len(captioner.decoder.members),
        "consensus": captioner.consensus is not None,
        "coherence": asdict(captioner.coherence) if captioner.coherence else None,
    }
    known: dict[str, Any] = {}
    with suppress(UserError, KeyError, TypeError):  # missing, damaged, or of another program
        before = read_json(folder / BUNDLE)
        known = before | before["search"]
    chosen = {"members": bundle["members"], "consensus": bundle["consensus"], **search}
    other = any(known.get(key, chosen[key]) != chosen[key] for key in chosen)
    for name in (CAPTIONS, SCORES, CARD) if other else ():
        (folder / name).unlink(missing_ok=True)
    write_json(folder / BUNDLE, bundle, sealed=True)


def _require_weights(captioner: Captioner, folder: Path) -> None:
    members = captioner.decoder.members
    for member, place in zip(members, member_folders(folder, len(members)), strict=True):
        path = place / WEIGHTS
        if not (path.exists() and member.weights_file and verify(path) == member.weights_file):
            raise UserError(
                f"{path} does not have this captioner's weights: its training was stopped, or its "
                "decoder made again. Run the training cell (`train_decoder`) to its end, then this."
            )


def read_bundle(folder: Path) -> dict[str, Any]:
    """Return the arguments of `Captioner`; raises as `Captioner.load` does."""
    bundle = read_json(folder / BUNDLE)
    tokenizer = CaptionTokenizer.load(folder / VOCABULARY)
    try:
        sizes, encoder = dict(bundle["sizes"]), dict(bundle["encoder"])
        options = {k: v for k, v in bundle["search"].items() if k != "length_power"}  # of old files
        search = Search(**options)
        members = [build_decoder(**sizes) for _ in range(bundle.get("members", 1))]
    except Exception as error:  # Keras raises many kinds for invalid sizes
        raise UserError(
            f"{folder / BUNDLE} does not describe a captioner ({first_line(error)}). Run the "
            "notebook again to write it again."
        ) from error
    if tokenizer.vocab_size != sizes["vocab_size"]:
        raise UserError(
            f"{folder / VOCABULARY} has {tokenizer.vocab_size} words, but the decoder was "
            f"trained with {sizes['vocab_size']}. Restore the file of that training."
        )
    for member, place in zip(members, member_folders(folder, len(members)), strict=True):
        path = place / WEIGHTS
        try:
            member.weights_file = verify(path)
            member.every_word.load_weights(path)
        except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
            raise UserError(
                f"{path} is missing, damaged, or from another model ({first_line(error)}). Run the "
                "notebook's training cell again to write it again, or restore it."
            ) from error
    if is_synthetic(folder):
        print("WARNING: This captioner was trained only on synthetic images: its captions of real "
              "images are meaningless.", file=sys.stderr)  # fmt: skip
    decoder = combine(members)
    consensus = Consensus.load(folder / CONSENSUS, decoder) if bundle.get("consensus") else None
    pairs = (bundle.get("coherence") or {}).get("apart")
    coherence = Coherence(tuple((a, b) for a, b in pairs)) if pairs is not None else None
    return {
        "decoder": decoder, "tokenizer": tokenizer, "search": search, "consensus": consensus,
        "coherence": coherence, "encoder": encoder,
    }  # fmt: skip


def checked_encoder(encoder: dict[str, Any], weights: str | os.PathLike = "") -> dict[str, Any]:
    """Return an encoder's description with the whole path of its weights file, `weights` if given.

    UserError if there is no encoder, or its weights are missing or not those of the training.
    """
    if "image_size" not in encoder or "grid_file" in encoder:
        raise UserError(
            f"This captioner was trained on precomputed features ({encoder.get('name')}) and has "
            "no encoder. Compute your images' features alike, for caption_features."
        )
    path = weights_path(weights or encoder["requested"]["weights"])
    remedy = "If the file was moved, name it: Captioner.load(folder, weights=...)."
    if os.path.isabs(path) and not os.path.isfile(path):
        raise UserError(f"The encoder's weights {path} are missing. {remedy}")
    encoder = encoder | {"requested": encoder["requested"] | {"weights": path}}
    algorithm, digest = encoder["weights"].split()[-2:]
    if os.path.isabs(path) and algorithm in ("md5", "sha256"):  # under any name
        found = checksum(path, algorithm)
    else:
        found = describe(encoder["name"], **encoder["requested"])["weights"]
    if found.split()[-1] != digest:
        raise UserError(
            f"The encoder's weights must be those of the training, {encoder['weights']}, got "
            f"{path} ({found}). Restore the file. {remedy}"
        )
    return encoder


def run_of(path: str | os.PathLike) -> Path:
    """Return the run of a file in it, or a folder's newest up to two levels below; print which."""
    path = Path(path).expanduser()
    folder = path.parent if os.path.isfile(path) or path.name == BUNDLE else path
    below = () if folder != path else ("*/", "*/*/")
    bundles = [file for level in ("", *below) for file in folder.glob(level + BUNDLE)]
    if not bundles:
        raise UserError(
            f"{folder / BUNDLE} is missing, and no folder below has one. Give the folder of a run "
            "whose notebook was run up to part 8, Captions."
        )
    newest = max(bundles, key=lambda file: file.stat().st_mtime).parent
    if bundles == [folder / BUNDLE]:
        return folder
    trained = ""
    with suppress(LookupError, TypeError, ValueError):  # not written by the notebook
        trained = f", trained on {record_of(newest)['captions']['train']:,} captions"
    hint = f". To use another run, give its {BUNDLE}." if bundles[1:] else ""
    print(f"The newest of {len(bundles)} runs in {folder}: {newest}{trained}{hint}")
    return newest


def is_synthetic(run: Path) -> bool:
    """Return whether a run was trained on phantoms, as far as its record says."""
    return is_set_name(str(record_of(run).get("data")))


def plain_model(decoder: Decoder | Ensemble, view: str = "next_word") -> keras.Model:
    """Return the decoder's `view` in Keras' own layers, for captions of any length."""
    views = [getattr(member, view) for member in decoder.members]
    inputs = [keras.Input(entry.shape[1:], name=entry.name) for entry in views[0].inputs[:-1]]
    inputs.append(keras.Input((None,), dtype="int32", name="input_txt"))
    copies = [_plain_copy(model, inputs) for model in views]
    if len(copies) == 1:
        return copies[0]  # without a nested model
    for k, copy in enumerate(copies):
        copy.name = f"member{k + 1}"
    outputs = _averaged([copy(inputs) for copy in copies], view)
    return keras.Model(inputs, outputs, name="image_captioning")


def _plain_copy(model: keras.Model, inputs: list[Any]) -> keras.Model:
    def clone(layer: layers.Layer) -> layers.Layer:
        return layer.plain() if hasattr(layer, "plain") else layer.from_config(layer.get_config())

    def call(layer: layers.Layer, *arrays: Any, **options: Any) -> Any:
        return layer(arrays[0] if len(arrays) == 1 else list(arrays), **options)  # for a model

    copy = keras.models.clone_model(model, inputs, clone_function=clone, call_function=call)
    for layer in model.layers:
        if not hasattr(layer, "plain"):
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _averaged(outputs: list[Any], view: str) -> Any:
    """Return members' mean probabilities; for `every_word` logits in, log-probabilities out."""
    if len(outputs) == 1:
        return outputs[0]
    stacked = ops.stack(outputs)
    if view == "next_word":
        return ops.mean(stacked, axis=0)
    return ops.logsumexp(ops.log_softmax(stacked, axis=-1), axis=0) - math.log(len(outputs))


def export_keras(captioner: Captioner, path: str | os.PathLike) -> Path:
    """Write the decoder as one `.keras` file that needs Keras alone; return its path.

    It maps features and the words so far to probabilities of the next word, in the order of
    `words.json` in the zip archive. UserError if the file computes something else.
    """
    path = Path(path).expanduser()
    if path.suffix != ".keras":
        raise UserError(f"Keras' own format needs a path that ends in .keras, got {path}.")
    captioner.refuse_retrained()
    if (path.parent / WEIGHTS).exists():  # a run's folder
        _require_weights(captioner, path.parent)
    with chatter_left_out(), atomic_path(path, ending=".keras") as written:
        plain_model(captioner.decoder).save(written)
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(WORDS, json.dumps(captioner.tokenizer.words))
        loaded = keras.saving.load_model(written, compile=False)
        _check(path, captioner, "next_word", loaded)
    return path


def export_onnx(captioner: Captioner, path: str | os.PathLike) -> Path:
    """Write the decoder as an ONNX file, and check it with ONNX Runtime; return its path.

    It maps features and the words so far, int32 (n, t), to logits (n, t, vocab_size): row i for the
    word after the first i + 1; its metadata `words.json` names the columns. UserError if a package
    is missing, or the file computes something else.
    """
    try:
        import onnx
        import onnxruntime
        import tf2onnx  # noqa: F401  Keras needs it
    except ImportError as error:
        raise UserError(
            f'ONNX needs {error.name}: pip install ".[onnx]" in a clone, or onnx, onnxruntime and '
            "tf2onnx."
        ) from error
    captioner.refuse_retrained()
    path, model = Path(path).expanduser(), plain_model(captioner.decoder, "every_word")
    with atomic_path(path, ending=".onnx") as written:
        signature = [model.inputs]  # keeps their names, and any number of images and words
        model.export(written, format="onnx", verbose=False, input_signature=signature)
        graph = onnx.load(written)
        onnx.helper.set_model_props(graph, {WORDS: json.dumps(captioner.tokenizer.words)})
        onnx.save(graph, written)
        session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in model.inputs]

        def run(inputs: list[np.ndarray]) -> np.ndarray:
            return session.run(None, dict(zip(names, inputs, strict=True)))[0]

        _check(path, captioner, "every_word", run)
    return path


def _check(path: Path, captioner: Captioner, view: str, exported: Callable) -> None:
    """Compare an exported model with the decoder on random images and words."""
    rng = np.random.default_rng(0)
    max_words, vocab_size = captioner.tokenizer.max_words, captioner.tokenizer.vocab_size
    members = [getattr(member, view) for member in captioner.decoder.members]
    shapes = [(5, *entry.shape[1:]) for entry in members[0].inputs[:-1]]
    images = [rng.gamma(0.3, size=shape).astype(np.float32) for shape in shapes]
    tokens = rng.integers(END + 1, vocab_size, (5, max_words + 1)).astype(np.int32)
    tokens[:, 0] = START
    tokens[np.arange(max_words + 1) > np.linspace(0, max_words, 5)[:, None]] = PAD
    with multiplied_exactly():
        expected = np.asarray(_averaged([member([*images, tokens]) for member in members], view))
        result = np.asarray(exported([*images, tokens]))
    error = float(np.abs(expected - result).max() / max(1.0, np.abs(expected).max()))
    if not error <= TOLERANCE:
        raise UserError(
            f"{path} was not written: its outputs would differ from the captioner's by {error:.2g} "
            f"(rounding: {TOLERANCE}). Try other versions of Keras and the converter."
        )
