"""The backend compiles once, multiplies in the chosen precision, and shows errors only."""

import os
import sys

import keras
import numpy as np
import pytest

from roco_caption.core import machine
from roco_caption.core.backend import chatter_left_out, compiled, multiplied_exactly, multiplied_in


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="nothing is compiled there")
def test_a_compiled_function_is_traced_once():
    traced = []

    def double(x):
        traced.append(x.shape)
        return keras.ops.sum(x) * 2

    fast = compiled(double)
    for factor in (1, 2, 3):
        assert float(fast(keras.ops.full((3,), factor, "float32"))) == 6 * factor
    assert len(traced) == 1


@pytest.mark.tensorflow("its rewriting of graphs")
@pytest.mark.parametrize("precision", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_matrix_products_are_in_bfloat16_only_within_the_block_and_on_request(precision):
    import tensorflow as tf

    # differs from 1 in float32, but not in bfloat16 with its 8 binary digits
    matrix = np.eye(256, dtype="f4") * (1 + 2**-12)

    def product():
        return np.asarray(tf.function(lambda a: tf.matmul(a + 0, a))(matrix))[0, 0]

    whole = product()
    assert whole == pytest.approx(1 + 2**-11, abs=2**-20)
    with pytest.raises(KeyboardInterrupt), multiplied_in(precision):
        halved = precision == "mixed_bfloat16" == machine._precision(())
        assert product() == (1 if halved else whole)
        raise KeyboardInterrupt
    assert product() == whole


def test_gpus_multiply_in_full_precision_only_within_the_block():
    """Checks the setting; its effect can only be seen on a GPU."""

    def precision():
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.config.experimental.tensor_float_32_execution_enabled()
        if keras.backend.backend() == "jax":
            import jax

            return jax.config.jax_default_matmul_precision
        return None

    before = precision()
    with pytest.raises(KeyboardInterrupt), multiplied_exactly():
        assert precision() == {"tensorflow": False, "jax": "float32"}.get(keras.backend.backend())
        raise KeyboardInterrupt
    assert precision() == before


def test_only_harmless_messages_are_filtered_out(capfd):
    with chatter_left_out():
        os.write(2, b"I0000 00:00:1 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1 util.cc:131] oneDNN supports DT_INT64 only on platforms.\n")
        os.write(2, b"E0000 00:00:1 cuda.cc:9] the driver is too old\n")
        print("a warning of Python's", file=sys.stderr)
    os.write(2, b"after\n")
    assert sorted(capfd.readouterr().err.splitlines()) == [
        "E0000 00:00:1 cuda.cc:9] the driver is too old", "a warning of Python's", "after"
    ]  # fmt: skip


def test_the_messages_of_a_failed_import_are_shown(capfd):
    with pytest.raises(ImportError), chatter_left_out():
        os.write(2, b"libcuda is missing\n")
        raise ImportError
    assert capfd.readouterr().err == "libcuda is missing\n"
