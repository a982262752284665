"""What Keras' backend is told: to keep quiet, to compile, in what precision to multiply."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

# What TensorFlow says of itself when it is imported, and of kernels that it has another one for.
_CHATTER = re.compile(
    r"I\d{4} |WARNING: All log messages before absl|To enable the following"
    r"|E\d{4} .*oneDNN supports \w+ only on"
)


def quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up lines out of the notebook; errors are still shown."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # one warning a shape of batch: few shapes are meant
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def chatter_left_out() -> Iterator[None]:
    """Leave out what TensorFlow says meanwhile that helps nobody, whatever its log level is."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        os.dup2(held.fileno(), 2)  # of the process: the lines come from C++
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            for line in held.read().decode("utf-8", "replace").splitlines(keepends=True):
                if not _CHATTER.match(line):
                    sys.stderr.write(line)


@contextlib.contextmanager
def multiplied_in(precision: str) -> Iterator[None]:
    """Let TensorFlow multiply matrices in bfloat16 on a CPU that has units for it.

    What is between the products stays in float32, and so do the weights. TensorFlow's own rewriting
    of graphs does it, where products are large enough to gain. It is switched off again after, so
    that losses and captions are computed in full.

    Args:
        precision: a Keras dtype policy; only `mixed_bfloat16` on TensorFlow changes anything.
    """
    import keras

    if precision != "mixed_bfloat16" or keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    switch = "auto_mixed_precision_onednn_bfloat16"
    before = tf.config.optimizer.get_experimental_options().get(switch, False)
    tf.config.optimizer.set_experimental_options({switch: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({switch: before})


@contextlib.contextmanager
def multiplied_exactly() -> Iterator[None]:
    """Let GPUs multiply float32 in full meanwhile.

    From NVIDIA's Ampere on they round factors to 10 bits (TF32) unless told otherwise, which
    trains as well, but tells two ways to compute the same apart.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        before = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(before)
    elif keras.backend.backend() == "jax":
        import jax

        with jax.default_matmul_precision("float32"):
            yield
    else:
        yield


def compiled(function: Callable, **options: Any) -> Callable:
    """Compile a function of arrays for the backend in use.

    Args:
        function: written with `keras.ops`; its inputs keep their shapes from call to call.
        options: passed to `tf.function` where TensorFlow is the backend.

    Returns:
        The function, traced by `tf.function` or `jax.jit`, or itself on other backends.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False, **options)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
