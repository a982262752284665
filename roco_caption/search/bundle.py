"""What a run's folder holds of a captioner: saved, loaded, and exported to Keras and ONNX."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers, ops

from roco_caption.core.backend import chatter_left_out, multiplied_exactly
from roco_caption.core.errors import UserError, first_line
from roco_caption.core.files import atomic_path, read_json, write_json
from roco_caption.core.pickles import verify
from roco_caption.decoder.model import Decoder, Ensemble, build_decoder, combine
from roco_caption.search.beam import Search
from roco_caption.search.rerank import Consensus
from roco_caption.text.tokenizer import END, START, CaptionTokenizer
from roco_caption.training.checkpoint import WEIGHTS, member_folder

if TYPE_CHECKING:
    from roco_caption.search.captioner import Captioner

BUNDLE = "captioner.json"
VOCABULARY = "tokenizer.json"
CONSENSUS = "consensus.npz"
WORDS = "words.json"  # the member of the Keras file, and the property of the ONNX file
TOLERANCE = 1e-4  # of the largest logit or probability; sums in another order differ by less


def write_bundle(
    folder: Path,
    *,
    decoder: Decoder | Ensemble,
    tokenizer: CaptionTokenizer,
    search: Search,
    consensus: Consensus | None,
    sizes: dict[str, Any],
    encoder: dict[str, Any],
) -> None:
    """Write `captioner.json`, `tokenizer.json` and the training images to rerank by.

    Args:
        folder: of the run; the weights of its trainings are there already.
        decoder, tokenizer, search, consensus, sizes, encoder: as `Captioner` takes them.
    """
    tokenizer.save(folder / VOCABULARY)
    if consensus is not None:
        consensus.save(folder / CONSENSUS)
    bundle = {
        "format": 2,
        "sizes": sizes,
        "encoder": encoder,
        "search": asdict(search),
        "weights": WEIGHTS,
        "members": len(decoder.members),
        "tokenizer": VOCABULARY,
        "consensus": CONSENSUS if consensus is not None else None,
    }
    write_json(folder / BUNDLE, bundle, sealed=True)


def read_bundle(folder: Path) -> dict[str, Any]:
    """Return the arguments of `Captioner`, from what `write_bundle` wrote.

    Raises:
        UserError: a file of the bundle is missing, damaged, or does not fit the others.
    """
    bundle = read_json(folder / BUNDLE)
    tokenizer = CaptionTokenizer.load(folder / VOCABULARY)
    try:
        sizes, encoder = bundle["sizes"], bundle["encoder"]
        search = Search(**bundle["search"])
        members = [build_decoder(**sizes) for _ in range(bundle.get("members", 1))]
        vocab_size, _ = sizes["vocab_size"], encoder["name"]
    except Exception as error:  # Keras raises many kinds for invalid sizes
        raise UserError(
            f"{folder / BUNDLE} does not describe a captioner ({error}). Run the notebook again "
            "to make it."
        ) from error
    if tokenizer.vocab_size != vocab_size:
        raise UserError(
            f"{folder / VOCABULARY} has {tokenizer.vocab_size} words, but the decoder was "
            f"trained with {vocab_size}. Bring back the file of that training."
        )
    for k, member in enumerate(members):
        _load_weights(member, member_folder(folder, k) / WEIGHTS)
    decoder = combine(members)
    has_consensus = bundle.get("consensus")
    consensus = Consensus.load(folder / CONSENSUS, decoder) if has_consensus else None
    return {
        "decoder": decoder, "tokenizer": tokenizer, "search": search, "consensus": consensus,
        "sizes": sizes, "encoder": encoder,
    }  # fmt: skip


def _load_weights(decoder: Decoder, path: Path) -> None:
    try:
        verify(path)
        decoder.every_word.load_weights(path)
    except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
        raise UserError(
            f"{path} could not be loaded ({first_line(error)}). It is missing, damaged, or of "
            "another model: run the notebook's training cell again, which writes it again, or "
            "bring back the file of that training."
        ) from error


def plain_model(decoder: Decoder | Ensemble, view: str = "next_word") -> keras.Model:
    """Return a view of the decoder as a model of Keras' own layers, which needs no `roco_caption`.

    Args:
        decoder: a trained one; the members of an ensemble are averaged.
        view: "next_word" or "every_word".
    """
    copies = [_plain(getattr(member, view)) for member in decoder.members]
    if len(copies) == 1:
        return copies[0]
    for k, copy in enumerate(copies):
        copy.name = f"member{k + 1}"
    inputs = copies[0].inputs
    outputs = _averaged([copy(inputs) for copy in copies], view)
    return keras.Model(inputs, outputs, name="image_captioning")


def _plain(model: keras.Model) -> keras.Model:
    def clone(layer: layers.Layer) -> layers.Layer:
        return layer.plain() if hasattr(layer, "plain") else layer.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=clone)
    for layer in model.layers:
        if not hasattr(layer, "plain"):
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _averaged(outputs: list[Any], view: str) -> Any:
    """Return the members' mean probabilities, as log-probabilities where they are logits."""
    if len(outputs) == 1:
        return outputs[0]
    if view == "next_word":
        return ops.mean(ops.stack(outputs), axis=0)
    return ops.log(ops.mean(ops.softmax(ops.stack(outputs), axis=-1), axis=0))


def export_keras(captioner: Captioner, path: str | os.PathLike) -> Path:
    """Write the decoder as one `.keras` file that needs Keras alone.

    `keras.saving.load_model(path)` loads it in safe mode. It takes features and the words so far
    and returns probabilities of the next word; the words of its columns are the member
    `words.json` of the file, which is a zip archive.

    Args:
        captioner: a trained one; the members of an ensemble are averaged.
        path: of the file, ending in `.keras`.

    Returns:
        The path.

    Raises:
        UserError: the path does not end so, the file cannot be written, or what is read back does
            not say what the captioner says.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise UserError(f"{path} has to end in .keras: Keras tells its files by that.")
    with chatter_left_out(), atomic_path(path, ending=".keras") as written:
        plain_model(captioner.decoder).save(written)
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(WORDS, json.dumps(captioner.tokenizer.words))
        loaded = keras.saving.load_model(written, compile=False)
        _check(path, captioner, "next_word", loaded)
    return path


def export_onnx(captioner: Captioner, path: str | os.PathLike) -> Path:
    """Write the decoder as an ONNX file, and check it with ONNX Runtime.

    It takes features, float (n, d), with attention grids, and the words so far, int32 (n, t), and
    returns logits, float (n, t, vocab_size): row i for the word after the first i + 1. The words
    of its columns are a JSON list in its metadata, property `words.json`.

    Args:
        captioner: a trained one; the members of an ensemble are averaged.
        path: of the file.

    Returns:
        The path.

    Raises:
        UserError: a package is missing, the file cannot be written, or ONNX Runtime does not
            compute what the captioner does.
    """
    try:
        import onnx
        import onnxruntime
        import tf2onnx  # noqa: F401  Keras needs it
    except ImportError as error:
        raise UserError(
            f'ONNX needs {error.name}: pip install "roco-caption[onnx]", or onnx, onnxruntime and '
            "tf2onnx."
        ) from error
    path = Path(path)
    with atomic_path(path, ending=".onnx") as written:
        model = plain_model(captioner.decoder, "every_word")
        signature = [model.inputs]  # with names, and any number of images and words
        model.export(written, format="onnx", verbose=False, input_signature=signature)
        graph = onnx.load(written)
        onnx.helper.set_model_props(graph, {WORDS: json.dumps(captioner.tokenizer.words)})
        onnx.save(graph, written)
        session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def run(inputs: list[np.ndarray]) -> np.ndarray:
            by_name = dict(zip((entry.name for entry in model.inputs), inputs, strict=True))
            return session.run(None, {name: by_name[name] for name in names})[0]

        _check(path, captioner, "every_word", run)
    return path


def _check(path: Path, captioner: Captioner, view: str, exported: Any) -> None:
    """Compare an exported model with the decoder on random images and words."""
    rng = np.random.default_rng(0)
    count, max_words = 5, captioner.tokenizer.max_words
    members = [getattr(member, view) for member in captioner.decoder.members]
    shapes = [entry.shape[1:] for entry in members[0].inputs[:-1]]
    images = [rng.gamma(0.3, size=(count, *shape)).astype(np.float32) for shape in shapes]
    tokens = np.zeros((count, max_words + 1), np.int32)
    for row, length in zip(tokens, np.linspace(0, max_words, count).astype(int), strict=True):
        row[: length + 1] = [START, *rng.integers(END + 1, captioner.tokenizer.vocab_size, length)]
    with multiplied_exactly():
        expected = _averaged([member([*images, tokens]) for member in members], view)
        result = np.asarray(exported([*images, tokens]))
    expected = np.asarray(expected)
    error = float(np.abs(expected - result).max() / max(1.0, np.abs(expected).max()))
    if not error <= TOLERANCE:
        raise UserError(
            f"{path} was not written: it would differ from the captioner by {error:.2g} (rounding "
            f"explains at most {TOLERANCE}). The versions of Keras and the converter may not fit."
        )
