"""The agents of scripts/ablation.py: problems, ingredients, seeds and budget, all committed before the runs.

A row is an agent: REM at the sizes and with the schedule of a small preset; that and one ingredient; that and all of
them; all but one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokendream.config.config import Config, vary
from tokendream.config.parts import ActorCriticConfig, TokenizerConfig, WorldModelConfig
from tokendream.config.presets import CONTROL, GRID, TOY
from tokendream.config.training import PhaseConfig

EPISODES = 20
"""Games of a run's score."""

Change = Callable[[Config], Config]


def part(name: str, **changes: Any) -> Change:
    """A change of fields in one part of a config."""
    return lambda config: vary(config, name, **changes)


def both(first: Change, second: Change) -> Change:
    """One after the other."""
    return lambda config: second(first(config))


def _frozen(config: Config) -> Config:
    """V takes no new codes after a tenth of the epochs."""
    V = dataclasses.replace(config.training.tokenizer, last_epoch=config.epochs // 10)
    return vary(config, "training", tokenizer=V)


INGREDIENTS: Mapping[str, Change] = {
    "windows": part("world_model", shortest_window=4.0, longest_window=16.0),
    "grid positions": part("world_model", positions="grid"),
    "slot embedding": part("world_model", slot_embedding=True),
    "reward head": part("world_model", reward_head="symlog"),
    "value head": part("actor_critic", value_head="symlog"),
    "late outcome": part("world_model", outcome_from="prediction"),
    "replay by loss": part("world_model", by_loss=0.3),
    "copy or sample": part("world_model", copy_or_sample=True),
    "events": part("world_model", events=True),
    "curiosity": both(part("world_model", ensemble=4), part("dream", curiosity=1.0)),
    "quantiles": part("dream", scale_by_quantiles=True),
    "separate critic": part("actor_critic", separate=True),
    "norms": both(part("world_model", head="norm"), part("actor_critic", trunk="norm")),
    "local prediction": part("world_model", local_prediction=True),
}
"""Each as its paper has it on Atari (docs/beyond.md); local prediction is ours."""

ON_FEATURES: Mapping[str, Change] = {
    **{name: change for name, change in INGREDIENTS.items() if name not in ("grid positions", "copy or sample")},
    "windows": part("world_model", shortest_window=2.0, longest_window=2.0),
    "curiosity": both(part("world_model", ensemble=4), part("dream", curiosity=10.0)),
}
"""Each as preset `simulus-dmc` has it. Features have no places that tokens could move between."""

ATTENTION = part("world_model", backbone="post-norm", shortest_window=0.0, longest_window=0.0)
"""Instead of RetNet and its windows, so that it is never beside the latter."""


def rem(config: Config, *, epochs: int, steps: int, of_m: int, of_c: int) -> Config:
    """REM's M and C at a small preset's sizes, with its schedule and objective, but for advantages that are scaled: REM
    as published scales none, and the ingredient that does stands alone.

    An epoch has so many decisions, updates of M and batches of dreams.
    """
    M, C, training = config.world_model, config.actor_critic, config.training
    sizes = {name: getattr(M, name) for name in ("width", "layers", "heads", "segment_length")}
    config = vary(config, "dream", scale_advantage=False)
    config = vary(config, "evaluation", episodes=EPISODES, every=0)
    config = vary(config, "collect", steps=steps, last_epoch=epochs)
    config = vary(config, "training", world_model=dataclasses.replace(training.world_model, updates=of_m),
                  actor_critic=dataclasses.replace(training.actor_critic, updates=of_c))  # fmt: skip
    return dataclasses.replace(
        config, epochs=epochs, checkpoint_every=5, device="cpu", actor_critic=ActorCriticConfig(C.lstm_width),
        world_model=WorldModelConfig(**sizes, dropout=0.0),
    )  # fmt: skip


CARTPOLE = vary(
    dataclasses.replace(CONTROL, env=dataclasses.replace(CONTROL.env, id="CartPole-v1"),
                        tokenizer=dataclasses.replace(CONTROL.tokenizer, stretched=False)),
    "training", actor_critic=dataclasses.replace(CONTROL.training.actor_critic, first_epoch=5, batch=32,
                                                 learning_rate=1e-3),
)  # fmt: skip
"""Every reward is 1 and an end is what costs, so that REM, which learns signs, learns it half in 6,000 steps: 457 and
200 of 500 with seeds 0 and 1, on which this was chosen. In dmc:cartpole-swingup rewards above 0 say nothing to it; of
dmc:ball_in_cup-catch it had 53 to 140 of 1,000 after 15,000 steps."""

MINIGRID = vary(
    dataclasses.replace(GRID, env=dataclasses.replace(GRID.env, id="minigrid:MiniGrid-Empty-5x5-v0")),
    "training", actor_critic=dataclasses.replace(GRID.training.actor_critic, first_epoch=5),
)  # fmt: skip
"""One reward at the goal, the earlier the more of 1: a random player has .21, REM .64 after 6,000 steps with seed 0 and
.12 after 4,800 with seed 1, all together .95 after 4,800, on which this was chosen. REM stays near random play in
minatar:Breakout for 15,000 steps, and stands still (0) in MiniGrid-Dynamic-Obstacles."""

CATCH = vary(
    dataclasses.replace(TOY, tokenizer=TokenizerConfig(
        channels=16, codebook_size=32, code_width=64, network="patch", perceptual="none", revive_after=20,
        changed_weight=3.0,
    )),
    "training", tokenizer=PhaseConfig(6, 200, 32, 1e-3, 0.01, 10.0, last_epoch=10),
    world_model=dataclasses.replace(TOY.training.world_model, first_epoch=11),
)  # fmt: skip
"""Catch from a trained VQ-VAE, as preset `toy` was when that was seen to learn it; V stops before M begins."""


@dataclass(frozen=True)
class Problem:
    """What is played, and which agents play it."""

    config: Config
    """REM."""
    ingredients: Mapping[str, Change]
    """What `all` has."""
    minutes: float
    """Core-minutes that a run is expected to take."""
    seeds: int = 5
    alone: tuple[str, ...] = ()
    """The only ingredients that are tried alone, none being cut out; by default all are, and all are cut out."""
    beside: Mapping[str, Change] = field(default_factory=dict)
    """What stands in the place of another part, so that `all` does not have it: tried alone and, where ingredients are
    cut out, on all of them."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Rows that are not run, and why."""

    @property
    def rows(self) -> dict[str, Change]:
        """Every agent by its name."""
        found: dict[str, Change] = {NONE: lambda config: config, ALL: self._together()}
        found |= {f"+ {name}": self.ingredients[name] for name in self.alone or self.ingredients}
        found |= {f"+ {name}": change for name, change in self.beside.items()}
        if not self.alone:
            found |= {f"- {name}": self._together(name) for name in self.ingredients}
            found |= {f"all, {name}": both(self._together(), change) for name, change in self.beside.items()}
        return found

    def _together(self, left_out: str = "") -> Change:
        def change(config: Config) -> Config:
            for name, ingredient in self.ingredients.items():
                config = config if name == left_out else ingredient(config)
            return config

        return change

    def hours(self, seeds: int) -> float:
        """Core-hours of all rows."""
        return self.minutes * len(self.rows) * min(seeds, self.seeds) / 60


NONE, ALL = "rem", "all"

GPU, NOWHERE = "needs a GPU", "does not exist here"

PROBLEMS: Mapping[str, Problem] = {
    "CartPole-v1": Problem(
        rem(CARTPOLE, epochs=24, steps=250, of_m=30, of_c=12), ON_FEATURES, minutes=4.1,
        beside={"attention": ATTENTION},
        absent=dict.fromkeys(("grid positions", "copy or sample", "V that is trained", "FSQ", "LPIPS"), NOWHERE)
        | {"ten layers": GPU},
    ),
    "minigrid:MiniGrid-Empty-5x5-v0": Problem(
        rem(MINIGRID, epochs=15, steps=400, of_m=30, of_c=12), {**INGREDIENTS, "frozen V": _frozen}, minutes=4.1,
        beside={"attention": ATTENTION},
        absent={"V that is trained": NOWHERE, "FSQ": NOWHERE, "LPIPS": NOWHERE, "ten layers": GPU},
    ),
    "tokendream/Catch-v0": Problem(
        rem(CATCH, epochs=40, steps=100, of_m=60, of_c=20), INGREDIENTS, minutes=13.0, seeds=3,
        alone=("curiosity", "events", "grid positions"), beside={"FSQ": part("tokenizer", kind="fsq")},
        absent={"frozen V": "in every row", "LPIPS": GPU, "ten layers": GPU},
    ),
}  # fmt: skip
"""Features, maps, images. On images three ingredients stand alone, those with the largest published gains: curiosity
(said to matter most), events (IQM .913 to 1.004), grid positions (68.6 to 71.9% on Craftax); FSQ was added when
the other rows had been run."""
