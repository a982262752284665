"""Traces a training step and the searches as a GPU would run them; needs no card.

`python tests/campaigns/gpu_graph.py`, with the GPU build of TensorFlow, fails if an operation's
name begins with `Xla`, or if the LSTM that trains is not cuDNN's.
"""

import contextlib
import os
import sys
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = map(str, (Path(__file__).parents[2], Path(__file__).parents[1]))

import keras
import numpy as np
import tensorflow as tf
from helpers import toy_captioner

from roco_caption.search.beam import Search
from roco_caption.text.tokenizer import END, START
from roco_caption.training.batches import Replicas


def operations(function: tf.types.experimental.GenericFunction, *arrays: object) -> set[str]:
    """Return the kinds of operations that a traced function consists of."""
    graph = function.get_concrete_function(*arrays).graph.as_graph_def()
    nodes = [*graph.node, *(node for part in graph.library.function for node in part.node_def)]
    return {node.op for node in nodes}


def training() -> set[str]:
    """Return the operations of a training step."""
    decoder = toy_captioner.make().decoder
    optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0)
    optimizer.build(decoder.every_word.trainable_variables)
    decoder.every_word.compile(optimizer, "mse", jit_compile=False)
    inputs = [tf.zeros((4, 3)), tf.fill((4, 9), START)]
    return operations(Replicas(decoder).step, inputs, tf.fill((4, 9), END), tf.ones((4, 9)))


def searching(search: Search) -> set[str]:
    """Return the operations of a search."""
    captioner = toy_captioner.make()
    function = tf.function(captioner._search_function(search, all_beams=search.beams > 1))
    return operations(function, (tf.zeros((4, 3)),), tf.constant(4), tf.constant(np.float32(0)))


def main() -> int:
    """Print what was found, and return the exit status."""
    cudnn = mock.patch("keras.src.backend.tensorflow.rnn.cudnn_ok", return_value=True)
    users = "roco_caption.decoder.layers", "roco_caption.training.loss"
    with cudnn, contextlib.ExitStack() as stack:
        for user in users:
            on_gpu = mock.patch(f"{user}.on_tensorflow_cpu", return_value=False)
            stack.enter_context(on_gpu)
        graphs = {"training": training()}
    graphs["greedy search"] = searching(Search(beams=1, no_repeat=0))
    graphs["beam search"] = searching(Search(beams=3))
    for name, kinds in graphs.items():
        lstm = "CudnnRNNV3" in kinds or "CudnnRNN" in kinds
        print(f"{name}: {len(kinds)} kinds of operations, cuDNN {lstm}, "
              f"XLA {sorted(k for k in kinds if k.startswith('Xla'))}")  # fmt: skip
    xla = any(kind.startswith("Xla") for kinds in graphs.values() for kind in kinds)
    return int(xla or not {"CudnnRNN", "CudnnRNNV3"} & graphs["training"])


if __name__ == "__main__":
    sys.exit(main())
