"""Workers for tests/scale/test_cluster.py: a small network for VGG16, and time to kill them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from helpers import toy_features

from roco_caption.core.errors import UserError
from roco_caption.features import encoder as encoders
from roco_caption.features import shards
from roco_caption.scale import encode as shard_encoding


class SlowWorker(shard_encoding.ShardWorker):
    """Signs its shards with its process's number as it begins and ends them."""

    def __init__(self, options):
        shard_encoding.build_encoder = toy_features.tiny_encoder
        super().__init__(options)

    def __call__(self, task):
        signs = Path(self.options["header"]["signs"])
        (signs / f"begun-{task['ids'][0]}-{os.getpid()}").touch()
        time.sleep(0.7)
        done = super().__call__(task)
        (signs / f"ended-{task['ids'][0]}-{os.getpid()}").touch()
        return done


class FailingWorker(SlowWorker):
    """Cannot write the shard of one image."""

    def __call__(self, task):
        def write(folder, ids, *arguments):
            if "image008" in ids:
                raise UserError("the disk is full")
            return shards.write_shard(folder, ids, *arguments)

        shard_encoding.write_shard = write
        return super().__call__(task)


class DyingWorker(SlowWorker):
    """Is killed by one image whenever it comes."""

    def __call__(self, task):
        if "image008" in task["ids"]:
            os.kill(os.getpid(), 9)
        return super().__call__(task)


def encode(images: str, folder: str, signs: str, worker=SlowWorker):
    """Run `extract_shards` with such workers, which sign into a folder."""
    shard_encoding.ShardWorker = worker
    shard_encoding.describe = lambda *a, **o: encoders.describe(*a, **o) | {"signs": signs}
    return shard_encoding.extract_shards(
        images, folder, encoder_weights="random", precision="float32", batch_size=4, shard_size=4,
        workers=2,
    )  # fmt: skip


if __name__ == "__main__":
    encode(*sys.argv[1:])
