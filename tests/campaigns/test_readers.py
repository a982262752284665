"""Whatever a file holds, its reader returns something well-formed or raises a UserError.

Properties checked by hypothesis; `ROCO_EXAMPLES` sets how many examples each (`make torture`).
"""

import json
import os
import pickle

import numpy as np
from campaigns import fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roco_caption.core.errors import UserError
from roco_caption.core.pickles import write_pickle
from roco_caption.features.given import read_features_file
from roco_caption.text.tokenizer import CaptionTokenizer
from roco_caption.text.words import clean

fuzzed = settings(
    max_examples=int(os.environ.get("ROCO_EXAMPLES", "60")), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=6),
    max_leaves=12,
)
HEADER = {"name": "vgg16"}


def table(rows: list[list[str]], quote: str) -> bytes:
    lines = [",".join(quote + cell + quote for cell in row) for row in rows]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


csv_files = st.binary(max_size=400) | st.builds(
    table,
    st.lists(
        st.lists(
            st.sampled_from(["name", "caption", "id", "a.jpg", "b.jpg", "", "nan"]) | st.text(),
            max_size=5,
        ),
        max_size=8,
    ).map(lambda rows: [["id", "name", "caption"], *rows]),
    st.sampled_from(["", '"', "'"]),
)


@fuzzed
@given(content=csv_files)
def test_the_table_of_a_split(content):
    fuzz.read_csv(content)


@fuzzed
@given(caption=st.text(max_size=300))
def test_cleaning_and_encoding_any_text(caption):
    words = clean(caption)
    assert all(word == word.strip() and word for word in words)
    tokenizer = CaptionTokenizer.fit(["left lung", caption], min_frequency=1, max_words=5)
    rows = tokenizer.encode([caption])
    assert rows.shape == (1, 7) and rows.max() < tokenizer.vocab_size
    assert clean(tokenizer.decode(rows[0][1:])) == words[:5]


vocabularies = st.fixed_dictionaries(
    {"words": json_values, "max_words": json_values}
) | st.fixed_dictionaries(
    {
        "words": st.lists(st.text() | st.integers(), max_size=4).map(
            lambda words: ["<pad>", "<start>", "<end>", "<unk>", *words]
        ),
        "max_words": st.integers(-3, 9) | st.floats(),
    }
)


@fuzzed
@given(content=st.binary(max_size=300) | (json_values | vocabularies).map(json.dumps))
def test_a_tokenizers_json(content):
    content = content if isinstance(content, bytes) else content.encode()
    fuzz.read_tokenizer(content)
    fuzz.read_sealed_json(content)


arrays = st.builds(
    lambda shape, kind: np.zeros(shape, kind),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["float16", "float32", "int64", "U3"]),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary() | arrays,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
caches = st.fixed_dictionaries(
    {
        "encoder": st.just(HEADER) | plain,
        "ids": st.lists(st.text(max_size=2) | st.integers(), max_size=3) | plain,
        "features": arrays | plain,
        "skipped": st.just({}) | plain,
    },
    optional={"files": arrays | plain},
)


@fuzzed
@given(value=caches | plain)
def test_a_feature_cache_of_anything(tmp_path, value):
    write_pickle(tmp_path / "cache.pkl", value)
    fuzz.read_cache((tmp_path / "cache.pkl").read_bytes())


GOOD = {"encoder": HEADER, "ids": ["a"], "features": np.zeros((1, 4), np.float16), "skipped": {}}


def with_piece(place: int, piece: bytes, protocol: int) -> bytes:
    """A good cache with some bytes put in."""
    whole = pickle.dumps(GOOD, protocol)
    return whole[: place % len(whole)] + piece + whole[place % len(whole) :]


damaged_pickles = st.builds(
    with_piece, st.integers(0, 1000), st.binary(max_size=9), st.integers(3, 5)
)


@fuzzed
@given(content=st.binary(max_size=200) | damaged_pickles)
def test_a_feature_cache_of_damaged_bytes(content):
    fuzz.read_cache(content)


@fuzzed
@given(content=st.binary(max_size=300), names=arrays, matrix=arrays)
def test_a_features_file(tmp_path, content, names, matrix):
    path = tmp_path / "given.npz"
    for write in (lambda: path.write_bytes(content), lambda: save(path, names, matrix)):
        write()
        try:
            features = read_features_file(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert features.matrix.ndim == 2 and len(features.ids) == len(features.matrix)


def save(path, names, matrix):
    np.savez(path, names=names, features=matrix)


STARTS = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM"]


@fuzzed
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=300))
def test_an_image(start, rest):
    fuzz.read_image(start + rest)
