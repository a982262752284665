"""Backend configuration: logging, compilation, precision."""

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

# TensorFlow's messages at import, and about kernels for which it has a replacement.
_CHATTER = re.compile(
    r"I\d{4} |WARNING: All log messages before absl|To enable the following"
    r"|(?:E\d{4}|[\d-]+ [\d:.]+: E) .*oneDNN supports \w+ only on"
)


def quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up messages out of the notebook; errors are still shown."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # no warning per new batch shape


@contextlib.contextmanager
def chatter_left_out() -> Iterator[None]:
    """Filter harmless TensorFlow messages out of standard error, whatever its log level."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)  # the file descriptor: the messages come from C++
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            lines = captured.read().decode("utf-8", "replace").splitlines(keepends=True)
            sys.stderr.writelines(line for line in lines if not _CHATTER.match(line))


@contextlib.contextmanager
def multiplied_in(precision: str) -> Iterator[None]:
    """Multiply in bfloat16 in TensorFlow on CPUs if `precision` is `mixed_bfloat16`."""
    import keras

    option = "auto_mixed_precision_onednn_bfloat16"
    with contextlib.ExitStack() as stack:
        if precision == "mixed_bfloat16" and keras.backend.backend() == "tensorflow":
            from tensorflow.config import optimizer

            before = optimizer.get_experimental_options().get(option, False)
            stack.callback(optimizer.set_experimental_options, {option: before})
            optimizer.set_experimental_options({option: True})
        yield


@contextlib.contextmanager
def multiplied_exactly() -> Iterator[None]:
    """Multiply float32 without TF32 (factors of 10 bits) on GPUs, to compare implementations."""
    import keras

    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "tensorflow":
            from tensorflow.config import experimental as config

            before = config.tensor_float_32_execution_enabled()
            stack.callback(config.enable_tensor_float_32_execution, before)
            config.enable_tensor_float_32_execution(False)
        elif keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.default_matmul_precision("float32"))
        yield


def product_with(rows: Any) -> Callable[[Any], Any]:
    """Return `others → rows @ others.T`, of NumPy's float32 matrices, computed by Keras' backend.

    An accelerator takes `rows` once.
    """
    from keras import ops

    here = ops.convert_to_tensor(rows)

    def product(others: Any) -> Any:
        with multiplied_exactly():
            return ops.convert_to_numpy(ops.matmul(here, ops.transpose(others)))

    return product


def compiled(function: Callable, **options: Any) -> Callable:
    """Compile a function of `keras.ops`, with `tf.function` (and its options) or `jax.jit`."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False, **options)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
