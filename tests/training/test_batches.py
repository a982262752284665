"""Which captions form a batch depends on seed and epoch alone."""

import numpy as np

from roco_caption.features.inputs import mean_image
from roco_caption.text.tokenizer import END, PAD, START
from roco_caption.training.batches import cut, plan


def test_each_caption_comes_once_an_epoch():
    lengths = np.random.default_rng(0).integers(3, 50, 1000)
    batches = plan(lengths, batch_size=32, seed=1, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert max(map(len, batches)) == 32 and len(batches) == 32


def test_order_is_a_pure_function_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(3, 50, 200)

    def order(seed, epoch):
        return np.concatenate(plan(lengths, batch_size=16, seed=seed, epoch=epoch)).tolist()

    assert order(3, 5) == order(3, 5)
    assert order(3, 5) != order(3, 6) != order(4, 5)


def test_batches_hold_captions_of_like_length():
    lengths = np.random.default_rng(0).geometric(1 / 20, 5000).clip(3, 50)
    batches = plan(lengths, batch_size=64, seed=0, epoch=0)
    padded = sum(lengths[b].max() * len(b) for b in batches)
    assert lengths.sum() / padded > 0.9


def test_a_batch_is_cut_to_its_longest_caption_and_shifted_by_one():
    tokens = np.zeros((3, 12), np.int32)
    for row, words in enumerate(([4, 5], [6], [4, 5, 6, 7, 8])):
        tokens[row, : len(words) + 2] = [START, *words, END]
    inputs, targets = cut(tokens[[2, 0]], multiple=4)
    assert inputs.tolist() == [[START, 4, 5, 6, 7, 8, END, PAD], [START, 4, 5, END] + [PAD] * 4]
    assert targets.tolist() == [[4, 5, 6, 7, 8, END, PAD, PAD], [4, 5, END] + [PAD] * 5]


def test_rounding_up_never_passes_the_table():
    tokens = np.array([[START, 4, 4, 4, 4, END]], np.int32)
    inputs, targets = cut(tokens, multiple=8)
    assert inputs.shape == targets.shape == (1, 5)


def test_the_average_image_has_every_kind_of_features():
    pooled, grids = np.array([[0, 2], [2, 4]], np.float16), np.arange(12.0).reshape(2, 3, 2)
    assert [array.tolist() for array in mean_image(pooled)] == [[[1, 3]]]
    both = mean_image((pooled, grids))
    assert [array.shape for array in both] == [(1, 2), (1, 3, 2)]
    assert both[1].tolist() == [[[3, 4], [5, 6], [7, 8]]]
