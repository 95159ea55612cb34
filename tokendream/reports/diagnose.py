"""A diagnosis from a run folder: fresh games, the three parts measured on them, a page and its JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tokendream.data.batch import Segment, Segments
from tokendream.data.replay import ReplayBuffer
from tokendream.errors import ConfigError, require
from tokendream.evaluation.diagnosis.control import control, returns_ahead
from tokendream.evaluation.diagnosis.figures import PartFigures
from tokendream.evaluation.diagnosis.parts import parts_vision
from tokendream.evaluation.diagnosis.vision import vision
from tokendream.evaluation.diagnosis.world import DISTANCES, world
from tokendream.kernels.install import describe
from tokendream.reports.diagnosis_page import lines, page, why
from tokendream.reports.display import display_for
from tokendream.reports.run_page import write_report
from tokendream.reports.wrapped import wrapped
from tokendream.runfolder import files
from tokendream.runfolder.load import Trained, results_folder
from tokendream.runfolder.names import name_of, shown
from tokendream.tokenizers.parts import PartsTokenizer

FORMAT = 1
"""Version of a diagnosis's JSON."""

OWN = "diagnosis"
"""Name of the files of a run's own diagnosis, which its report shows."""

STEPS = 2000
"""Env steps of fresh games that a diagnosis plays where nothing else is asked for."""

AHEAD = 100, 1000
"""Real returns are summed over at least and at most so many steps to judge the values."""

LEFT_OUT = 0.05
"""Of a steady reward's return, what may come later than that."""

BATCH = 128
"""Segments a part is measured on; enough for two digits."""

MOST_STEPS = 20_000
"""Most steps: their frames are measured at once, and at 64 pixels take 1 GB as float32."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found: facts about the games that were played, the figures, and what they say in words."""

    facts: dict[str, object]
    parts: list[PartFigures]
    said: list[str]
    name: str = OWN
    """That of its files: `OWN`, or one that says the settings where they are others than a run's own."""

    def write(self, run: Path) -> Path:
        """Write its JSON and its page into `results_folder`, and where it is a run's own the report once more."""
        data = {"format": FORMAT, **self.facts, "why": self.said, "parts": [dataclasses.asdict(p) for p in self.parts]}
        path = results_folder(run) / f"{self.name}.html"
        files.replace_text(path.with_suffix(".json"), json.dumps(data, indent=2) + "\n")
        files.replace_text(path, page(self.facts, self.parts, self.said))
        if run.is_dir() and self.name == OWN:
            write_report(run)
        return path


def diagnose(run_dir: Path, *, steps: int, temperature: float | None, seed: int, device: str) -> int:
    """Measure a run's last checkpoint, or an exported agent: print the figures, and write them; see `examine`."""
    trained = Trained.load(run_dir, device)
    display = display_for(trained.config, ())
    try:
        found = examine(
            trained, run_dir, steps=steps, temperature=temperature, seed=seed,
            progress=lambda done: display.games("env steps", done, steps),
        )  # fmt: skip
    finally:
        display.close()
    # Before anything is written: a folder may be read-only, a disk full.
    for line in (*lines(found.parts), *found.said):
        print(wrapped(line), flush=True)
    print(f"diagnosis: {shown(found.write(run_dir))}")
    return 0


def examine(
    trained: Trained,
    run: Path,
    *,
    steps: int = STEPS,
    temperature: float | None = None,
    seed: int = 0,
    progress: Callable[[int], None],
) -> Diagnosis:
    """Measure an agent on fresh games; `run` is where it comes from.

    Games are played at the config's collecting temperature, C's actions counted at that of its evaluation, or both at
    `temperature`. Raises ConfigError where there are fewer steps than a dream's burn-in and a segment need.
    """
    config = trained.config
    least = 2 * (config.dream.burn_in + config.world_model.segment_length)
    if steps < least:
        raise ConfigError(f"steps must be at least {least} for this run's segments, not {steps}")
    require(steps <= MOST_STEPS, "steps", f"at most {MOST_STEPS}", steps)
    collecting = temperature or config.collect.temperature
    evaluating = temperature or config.evaluation.temperature
    replay = trained.play(steps, seed, temperature=collecting, progress=progress)
    with trained.compute.autocast():
        parts = measure(trained, replay, temperature=evaluating, seed=seed)
    facts = {"run": name_of(run), "game": config.env_name, "epoch": trained.epoch, "steps": steps,
             "seed": seed, "device": describe(trained.compute), "collect temperature": collecting,
             "evaluation temperature": evaluating}  # fmt: skip
    usual = (collecting, evaluating) == (config.collect.temperature, config.evaluation.temperature)
    heat, drawn = "" if usual else f"-temperature-{collecting:g}", f"-seed-{seed}" if seed else ""
    name = OWN if usual and (steps, seed) == (STEPS, 0) else f"{OWN}-{steps}-steps{heat}{drawn}"
    return Diagnosis(facts, parts, why(parts, config), name)


def steps_that_count(discount: float) -> int:
    """How many steps of a return at this γ hold all of a steady reward's but LEFT_OUT, within AHEAD."""
    least, most = AHEAD
    if not 0 < discount < 1:
        return most if discount == 1 else least
    return min(most, max(least, math.ceil(math.log(LEFT_OUT) / math.log(discount))))


def measure(trained: Trained, replay: ReplayBuffer, *, temperature: float, seed: int = 0) -> list[PartFigures]:
    """The three parts on these steps; C's actions as they are sampled at `temperature`."""
    agent, config, rng = trained.agent, trained.config, np.random.default_rng(seed)
    burn_in = config.dream.burn_in
    row = np.arange(replay.oldest, replay.total)
    first = {rows[0] for rows in replay.episodes()}
    follows = torch.tensor([r not in first for r in row.tolist()], device=trained.compute.device)
    one_step = _whole(trained, replay, config.world_model.segment_length, rng)
    if one_step is None:
        length = config.world_model.segment_length
        raise ConfigError(f"no game lasted {length} steps, a training segment of the world model: ask for more "
                          "--steps, or these games are too short to be measured")  # fmt: skip
    long = _whole(trained, replay, burn_in + 1 + max(DISTANCES), rng)
    moments = replay.draw(4 * BATCH, burn_in + 1, align="end", rng=rng)
    head, came = agent.world_model.rewards, torch.from_numpy(replay.rewards).to(trained.compute.device)
    paid = (head.paid(came) / head.unit).cpu().numpy()  # as C's dreams are paid
    ahead, steps_ahead = np.full(replay.total, np.nan), steps_that_count(config.dream.discount)
    for rows in map(np.array, replay.episodes()):
        over = bool(replay.rows(rows[-1:])["end"][0])
        ahead[rows] = returns_ahead(paid[rows - replay.oldest], config.dream.discount, over=over, ahead=steps_ahead)
    real = torch.from_numpy(ahead[moments.row[:, -1]]).to(trained.compute.device)
    V, frame = agent.tokenizer, replay.frames(row)
    tokens = V.encode(replay.frames(moments.row))
    return [
        parts_vision(V, frame, follows) if isinstance(V, PartsTokenizer) else vision(V, frame, follows),
        world(agent, one_step, long, config.dream, seed=seed),
        control(
            agent, tokens, replay.steps(moments), real, trained.action_names, config.dream, temperature=temperature
        ),
    ]


def _whole(trained: Trained, replay: ReplayBuffer, length: int, rng: np.random.Generator) -> Segment | None:
    """Up to `BATCH` segments that no episode's end cuts short; None where there is no such place."""
    drawn = replay.draw(16 * BATCH, length, align="start", rng=rng)
    kept = np.flatnonzero(drawn.mask.all(1))[:BATCH]
    if not len(kept):
        return None
    segments = Segments(drawn.row[kept], drawn.mask[kept])
    return Segment(trained.agent.tokenizer.encode(replay.frames(segments.row)), replay.steps(segments))
