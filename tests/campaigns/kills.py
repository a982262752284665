"""Kills the small pipeline at random moments, runs it again, and compares the ends."""

from __future__ import annotations

import os
import random
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from campaigns import pipeline

SERVE = (
    "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
    "from helpers.kaggle_server import KaggleServer\n"
    "server = KaggleServer(Path(sys.argv[2]).read_bytes(), pause=0.01)\n"
    "print(server.url, flush=True)\n"
    "sys.stdin.read()\n"  # until whoever started it is gone
)


@dataclass
class Run:
    """One process: how long each stage and each piece of work took, and how it ended."""

    seconds: dict[str, float] = field(default_factory=dict)
    pieces: dict[str, list[float]] = field(default_factory=dict)  # seconds of each
    stage: str = ""
    killed: bool = False
    status: int = 0


@dataclass
class Row:
    """A line of the table: what became of the kills in one stage."""

    kills: int = 0
    survived: int = 0
    redone: float = 0.0  # seconds, the most of a kill


@dataclass(frozen=True)
class Moment:
    """When to kill: so many pieces into a stage, and then so many seconds."""

    stage: str
    pieces: int
    seconds: float


def start(
    folder: Path, url: str, moment: Moment | None = None, snapshots: Path | None = None
) -> Run:
    """Run the pipeline in a process of its own, and kill it at the moment given.

    The process is a fork of this one, which has imported Keras and computed nothing: that saves
    several seconds of imports each time.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(folder, url, writer, snapshots)
    os.close(writer)
    try:
        run = _watch(reader, pid, moment)
    finally:
        os.close(reader)
    run.status = os.waitpid(pid, 0)[1]
    return run


def _child(folder: Path, url: str, writer: int, snapshots: Path | None) -> None:
    def stage(name: str) -> None:
        if snapshots:
            shutil.copytree(folder, snapshots / name)
        os.write(writer, f"{name}\n".encode())

    status = 1
    try:
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        pipeline.run(folder, url, stage, lambda: os.write(writer, b".\n"))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch(reader: int, pid: int, moment: Moment | None) -> Run:
    """Follow a process by what it reports; kill it when its time has come."""
    run, rest, deadline = Run(), b"", None
    began = last = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while True:
            wait = None if deadline is None else max(0, deadline - time.monotonic())
            if not selector.select(wait):
                os.kill(pid, signal.SIGKILL)
                run.killed, moment, deadline = True, None, None
                continue
            block = os.read(reader, 65536)
            now = time.monotonic()
            if not block:
                run.seconds[run.stage] = now - began
                return run
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if line == b".":
                    run.pieces.setdefault(run.stage, []).append(now - last)
                else:
                    run.seconds[run.stage], began, run.stage = now - began, now, line.decode()
                last = now
                done = len(run.pieces.get(run.stage, ()))
                if moment and run.stage == moment.stage and done >= moment.pieces:
                    moment, deadline = None, now + moment.seconds


def kill_often(folder: Path, kills: int, seed: int = 0) -> tuple[dict[str, Row], list[str]]:
    """Kill the pipeline at random moments of each stage in turn, and finish it each time.

    Args:
        folder: an empty one.
        kills: at least this many; every fourth run that finishes what was killed is killed too.
        seed: of the moments.

    Returns:
        A `Row` for each stage, and a line for each run that did not end as it should.
    """
    (folder / "first").mkdir(parents=True)
    start(folder / "first", "")
    with zipfile.ZipFile(folder / "roco.zip", "w") as zipped:
        for path in sorted((folder / "first" / "phantoms" / "all_data").rglob("*.*")):
            zipped.write(path, path.relative_to(folder / "first" / "phantoms"))
    command = [
        sys.executable,
        "-c",
        SERVE,
        str(Path(__file__).parents[1]),
        str(folder / "roco.zip"),
    ]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        return _campaign(folder, url, kills, random.Random(seed))
    finally:
        server.stdin.close()
        server.wait()


def _campaign(
    folder: Path, url: str, kills: int, random: random.Random
) -> tuple[dict[str, Row], list[str]]:
    (folder / "undisturbed").mkdir()
    reference = start(folder / "undisturbed", url, snapshots=folder / "snapshots")
    if reference.status:
        return {}, [(folder / "undisturbed.log").read_text()[-2000:]]
    expected = pipeline.read_result(folder / "undisturbed")
    rows = {name: Row() for name in pipeline.STAGES}
    failures, trial = [], 0
    while sum(row.kills for row in rows.values()) < kills:
        aim = pipeline.STAGES[trial % len(pipeline.STAGES)]
        place = folder / f"trial{trial}"
        shutil.copytree(folder / "snapshots" / aim, place)
        runs = [start(place, url, _moment(aim, reference, random))]
        while runs[-1].killed and random.random() < 0.25:
            stage = random.choice(pipeline.STAGES[pipeline.STAGES.index(aim) :])
            runs.append(start(place, url, _moment(stage, reference, random)))
        if runs[-1].killed:
            runs.append(start(place, url))
        failure = _judge(place, runs, expected)
        failures += [f"trial {trial}, killed in {aim}: {failure}"] if failure else []
        for i, run in enumerate(runs[:-1]):
            row = rows.setdefault(run.stage, Row())
            row.kills, row.survived = row.kills + 1, row.survived + (not failure)
            row.redone = max(row.redone, _redone(run, runs[i + 1], reference))
        trial += 1
        if not failure:
            shutil.rmtree(place)
    return rows, failures


def _judge(place: Path, runs: list[Run], expected: dict) -> str:
    if runs[-1].status:
        return place.with_suffix(".log").read_text()[-1500:]
    found = pipeline.read_result(place)
    differing = [key for key in expected if found[key] != expected[key]]
    return f"other {', '.join(differing)}" if differing else ""


def _moment(stage: str, reference: Run, random: random.Random) -> Moment:
    """Return a random moment of a stage, by pieces of work rather than a busy machine's clock."""
    pieces = len(reference.pieces.get(stage, ()))
    if not pieces:
        return Moment(stage, 0, random.uniform(0, min(2, reference.seconds[stage])))
    return Moment(stage, random.randrange(pieces), random.uniform(0, 3 * _piece(stage, reference)))


def _piece(stage: str, reference: Run) -> float:
    return statistics.median(reference.pieces[stage])


def _redone(run: Run, following: Run, reference: Run) -> float:
    """Return the seconds of work that a kill cost: pieces done twice, or the stage until then."""
    stage = run.stage
    if stage not in reference.pieces:
        return run.seconds[stage]
    done = sum(len(one.pieces.get(stage, ())) for one in (run, following))
    twice = max(0, done - len(reference.pieces[stage])) + 1  # and the one that was under way
    return twice * _piece(stage, reference)
