"""The decoder as others take it: one Keras file of plain layers, and an ONNX file, both checked."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from roco_caption.backend import chatter_left_out, multiplied_exactly
from roco_caption.captioner import Captioner
from roco_caption.ensemble import members_of
from roco_caption.files import UserError, atomic_path
from roco_caption.scaling import shortened
from roco_caption.text import END, START

WORDS = "words.json"  # the member of the Keras file, and the property of the ONNX file
TOLERANCE = 1e-4  # of the largest logit or probability; sums in another order differ by less


def plain_decoder(captioner: Captioner, every_word: bool = False) -> keras.Model:
    """Build the decoder anew from Keras' own layers, with the trained weights.

    Without this project's code there is no `FeatureScaler` and no `Concepts`, so they become dense
    layers; no `LastWord`, so the LSTM is told by a mask where a caption ends; and no
    `WordAttention`, so its scale goes into the query's weights.

    Args:
        captioner: a trained one; of an ensemble the first member is taken.
        every_word: whether to rate the next word after every word instead of the last one.

    Returns:
        A model with the inputs of `image_captioning`, `input_img` (n, d), with attention
        `input_grid` (n, cells, channels), and `input_txt` (n, t): to probabilities of the next
        word (n, vocab_size), or to logits (n, t, vocab_size).
    """
    ours, sizes = members_of(captioner.captioning)[0].next_word, captioner.sizes
    trained = ours.get_layer
    input_img = keras.Input((sizes["feature_size"],), name="input_img")
    input_txt = keras.Input((None,), dtype="int32", name="input_txt")
    inputs, filled = [input_img], []

    def apply(layer: layers.Layer, value: Any, weights: list[np.ndarray]) -> Any:
        filled.append((layer, weights))
        return layer(value)

    def copied(layer: layers.Layer, value: Any) -> Any:
        return apply(layer, value, trained(layer.name).get_weights())

    whitened = layers.UnitNormalization(name="unit_length")(input_img)
    offset, projection, longest = trained("scaler").get_weights()
    scaler = layers.Dense(projection.shape[1], name="scaler")
    image = apply(scaler, whitened, [projection, -offset @ projection])
    image = shortened(image, float(longest))
    if captioner.sizes.get("attention"):
        inputs.append(keras.Input(tuple(sizes["grid_size"]), name="input_grid"))
        grid = _scaled(inputs[1], trained, apply)
        if any(layer.name == "concepts" for layer in ours.layers):
            image = _rated(image, grid, trained, apply)
    image = copied(layers.Dense(trained("image").units, name="image"), image)
    embedding = trained("embedding")
    words = layers.Embedding(
        embedding.input_dim, embedding.output_dim, mask_zero=not every_word, name="embedding"
    )
    lstm = layers.LSTM(trained("lstm").units, return_sequences=every_word, name="lstm")
    spoken = copied(lstm, copied(words, input_txt))
    if not every_word:
        spoken = layers.Reshape((1, lstm.units), name="last_word")(spoken)
    merged = layers.Add(name="merge")(
        [spoken, layers.Reshape((1, lstm.units), name="to_every_word")(image)]
    )
    if captioner.sizes.get("attention"):
        merged = _look(merged, grid, trained, apply)
    hidden = copied(layers.Dense(trained("hidden").units, activation="tanh", name="hidden"), merged)
    output = copied(layers.Dense(sizes["vocab_size"], name="dense"), hidden)
    if not every_word:
        output = layers.Reshape((sizes["vocab_size"],), name="next_word")(output)
        output = layers.Softmax(name="softmax")(output)
    model = keras.Model([*inputs, input_txt], output, name="image_captioning")
    for layer, weights in filled:
        layer.set_weights(weights)
    return model


def _scaled(input_grid: Any, trained: Any, apply: Any) -> Any:
    """Whiten the grid's channels, as its `FeatureScaler` does: to float (n, cells, components)."""
    offset, projection, longest = trained("scaler_grid").get_weights()
    cells = input_grid.shape[1]
    whitened = layers.UnitNormalization(name="unit_length_grid")(input_grid)
    scaler = layers.EinsumDense(
        "ncd,dk->nck", (cells, projection.shape[1]), bias_axes="ck", name="scaler_grid"
    )
    grid = apply(scaler, whitened, [projection, -offset @ projection])
    return shortened(grid, float(longest))


def _rated(image: Any, grid: Any, trained: Any, apply: Any) -> Any:
    """Rate words by features and by the whole grid, as `Concepts` does: to float (n, concepts)."""
    rated = []
    for name, value in (("concepts", image), ("concepts_grid", layers.Flatten()(grid))):
        offset, projection, _ = trained(name).get_weights()
        layer = layers.Dense(projection.shape[1], name=name)
        rated.append(apply(layer, value, [projection, -offset @ projection]))
    return layers.Concatenate(name="both_concepts")(rated)


def _look(merged: Any, grid: Any, trained: Any, apply: Any) -> Any:
    """Add what the attention sees, as `WordAttention` does: to float (n, t, units)."""
    cells = grid.shape[1]
    where, kernel, bias = _by_name(trained("cells"), "where", "what/kernel", "what/bias")
    units = kernel.shape[1]
    what = layers.EinsumDense("ncd,dk->nck", (cells, units), bias_axes="ck", name="cells")
    grid = apply(what, grid, [kernel, bias + where])
    names = ("query/kernel", "query/bias", "result/kernel", "result/bias")
    query, shift, result, other = _by_name(trained("attention"), *names)
    scale = query.shape[1] ** 0.5
    asked = apply(layers.Dense(units, name="query"), merged, [query / scale, shift / scale])
    seen = layers.Attention(name="attention")([asked, grid])
    seen = apply(layers.Dense(result.shape[1], name="result"), seen, [result, other])
    return layers.Add(name="merge_seen")([merged, seen])


def _by_name(layer: layers.Layer, *names: str) -> list[np.ndarray]:
    """Return a layer's weights whose paths end with these names."""
    found = {weight.path: np.asarray(weight) for weight in layer.weights}
    return [next(array for path, array in found.items() if path.endswith(n)) for n in names]


def export_keras(captioner: Captioner, path: str | os.PathLike) -> Path:
    """Write the decoder as one `.keras` file that needs Keras alone.

    `keras.saving.load_model(path)` loads it in safe mode. It takes features and the words so far
    and returns probabilities of the next word; the words of its columns are the member
    `words.json` of the file, which is a zip archive.

    Args:
        captioner: a trained one; of an ensemble the first member is taken.
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
        plain_decoder(captioner).save(written)
        with zipfile.ZipFile(written, "a") as archive:
            archive.writestr(WORDS, json.dumps(captioner.tokenizer.words))
        loaded = keras.saving.load_model(written, compile=False)
        _check(path, members_of(captioner.captioning)[0].next_word, loaded, captioner)
    return path


def export_onnx(captioner: Captioner, path: str | os.PathLike) -> Path:
    """Write the decoder as an ONNX file, and check it with ONNX Runtime.

    It takes features, float (n, d), with attention grids, and the words so far, int32 (n, t), and
    returns logits, float (n, t, vocab_size): row i for the word after the first i + 1. The words
    of its columns are a JSON list in its metadata, property `words.json`.

    Args:
        captioner: a trained one; of an ensemble the first member is taken.
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
        model = plain_decoder(captioner, every_word=True)
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

        _check(path, members_of(captioner.captioning)[0].every_word, run, captioner)
    return path


def _check(path: Path, ours: keras.Model, theirs: Any, captioner: Captioner) -> None:
    """Compare two models on random images and words; raise where they differ."""
    rng = np.random.default_rng(0)
    count, most = 5, captioner.tokenizer.max_words
    shapes = [entry.shape[1:] for entry in ours.inputs[:-1]]
    images = [rng.gamma(0.3, size=(count, *shape)).astype(np.float32) for shape in shapes]
    tokens = np.zeros((count, most + 1), np.int32)
    for row, length in zip(tokens, np.linspace(0, most, count).astype(int), strict=True):
        row[: length + 1] = [START, *rng.integers(END + 1, captioner.sizes["vocab_size"], length)]
    with multiplied_exactly():
        wanted, found = ours([*images, tokens]), theirs([*images, tokens])
    wanted, found = np.asarray(wanted), np.asarray(found)
    off = float(np.abs(wanted - found).max() / max(1.0, np.abs(wanted).max()))
    if not off <= TOLERANCE:
        raise UserError(
            f"{path} was not written: it would differ from the captioner by {off:.2g} (at most "
            f"{TOLERANCE} is due to rounding). Versions of Keras and the converter may not fit."
        )
