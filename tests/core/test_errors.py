"""Error messages for users: what is wrong, and one message for every kind of out of memory."""

import numpy as np
import pytest
import tensorflow as tf

from roco_caption.core.errors import OutOfMemory, UserError, first_line, memory_for


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes."),  # JAX's
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA error"),  # PyTorch's
    ],
    ids=repr,
)
def test_every_out_of_memory_error_becomes_one_message(error):
    with pytest.raises(OutOfMemory) as caught, memory_for("training (batch size 32)", "Lower it."):
        raise error
    kind = type(error).__name__
    assert str(caught.value).startswith(f"Out of memory while training (batch size 32) ({kind}). ")
    assert str(caught.value).endswith(" Lower it.") and caught.value.__cause__ is error


def test_numpys_own_memory_error_is_recognised():
    with pytest.raises(OutOfMemory), memory_for("x", "y"):
        np.empty(1 << 60, np.uint8)


@pytest.mark.parametrize(
    "error", [ValueError("odd"), UserError("out of memory, says a file"), KeyboardInterrupt()]
)
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as caught, memory_for("x", "y"):
        raise error
    assert caught.value is error


def test_the_first_line_of_an_error_is_short_and_never_empty():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 200


def test_a_notebook_shows_the_message_without_a_traceback():
    assert UserError("Do this.")._render_traceback_() == ["UserError: Do this."]
