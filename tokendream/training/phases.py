"""The four phases of an epoch: collecting experience, then updates of V (trained or not), of M and of C.

Source: REM (arXiv 2402.05643), section 3 and appendix on the training setup.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from tokendream import ranks
from tokendream.agent.collect import Collector
from tokendream.agent.events import changes, images_of
from tokendream.agent.rewards import Adjusted
from tokendream.config.config import Config
from tokendream.config.parts import DreamConfig
from tokendream.config.schedule import schedule
from tokendream.data.batch import Segment, Segments, SegmentWithChanges
from tokendream.data.priorities import Priorities
from tokendream.data.replay import ReplayBuffer
from tokendream.data.rewarded import frequencies, with_rewarded
from tokendream.dream import starts
from tokendream.dream.objective import Experience, clipped_loss, dream_loss, dreamed, minibatches
from tokendream.dream.return_scale import ReturnScale
from tokendream.envs.vector import Envs
from tokendream.errors import once
from tokendream.kernels.cuda_graph import Captured, capturing
from tokendream.nn.losses import Losses
from tokendream.tokenizers.protocol import Fitted, Learned
from tokendream.training.average import MovingAverage
from tokendream.training.phase import GradientPhase, Phase, Shared


class Collect(Phase):
    """Experience: an update is one env step in every environment, on rank 0 alone."""

    name: ClassVar[str] = "collect"

    def __init__(self, shared: Shared, envs: Envs) -> None:
        self._config = shared.config
        self.memory_field = f"collect.capacity ({self._config.collect.capacity})"
        self.collector = Collector(
            envs, shared.replay, shared.agent, shared.compute, self._config.collect,
            seed=self._config.seed, generator=shared.acting, capture=capturing(shared.compute, f"phase {self.name}"),
        )  # fmt: skip
        self.captured: Captured = self.collector.choose

    def update(self, number: int) -> Mapping[str, Tensor]:
        if ranks.number() > 0:
            return {}
        if self._config.collect.forget_every_epoch and number == 0:
            self.collector.rewarm(self._config.dream)
        scores = self.collector.step()
        return {"return": torch.tensor(scores)} if scores else {}


BATCH = 256
"""Frames in a call of `fit`, for parts that are fitted beside a tokenizer that is trained."""


def unseen(replay: ReplayBuffer, config: Config) -> Int64[np.ndarray, " n"]:
    """The rows that an epoch has collected; in V's first epoch all that there are."""
    steps = config.collect.steps
    first = replay.total - steps if replay.total > steps * config.training.tokenizer.first_epoch else 0
    return np.arange(max(replay.oldest, first), replay.total)


class UntrainedTokenizer(Phase):
    """V where nothing of it is trained: its updates share the frames that it has not seen, once and in their order, if
    it is built from them."""

    name: ClassVar[str] = "tokenizer"

    def __init__(self, shared: Shared) -> None:
        V = shared.agent.tokenizer
        self._shared, self._fitted = shared, isinstance(V, Fitted)
        self._updates = next(phase.updates for phase in schedule(shared.config) if phase.name == self.name)
        self.memory_field = f"training.tokenizer.batch ({shared.config.training.tokenizer.batch})"
        # No graph: what is done depends on how many patches are new.
        fit = V.fit if isinstance(V, Fitted) else lambda _: None
        self.captured: Captured = Captured(fit, dataclasses.replace(shared.compute, capture=False))

    def update(self, number: int) -> Mapping[str, Tensor]:
        replay, cache = self._shared.replay, self._shared.cache
        row = np.array_split(unseen(replay, self._shared.config), self._updates)[number]
        if not self._fitted or not len(row):
            return {}
        fit = self.captured(replay.frames(row))
        if fit.changed:
            cache.forget()
        return {"codes": torch.tensor(float(fit.codes)), "changed_codes": torch.tensor(float(fit.changed))}


class TokenizerPhase(GradientPhase):
    """V, on single random frames. Parts that are fitted take in an epoch's new frames before its first update."""

    name = "tokenizer"

    def update(self, number: int) -> Mapping[str, Tensor]:
        V, replay = self.shared.agent.tokenizer, self.shared.replay
        if number == 0 and isinstance(V, Fitted):
            rows = unseen(replay, self.shared.config)
            for first in range(0, len(rows), BATCH):
                V.fit(replay.frames(rows[first : first + BATCH]))
        return super().update(number)

    def draw(self) -> tuple[Segments, UInt8[Tensor, " B *O"]]:
        shared = self.shared
        segments = shared.replay.draw(self.settings.batch, 1, align="start", rng=shared.rng, newest=self.newest_rows)
        shared.cache.forget()  # V is about to change
        return segments, shared.replay.frames(shared.mine(segments).row[:, 0])

    def loss(self, batch: UInt8[Tensor, " B *O"]) -> Losses:
        V = self.shared.agent.tokenizer
        assert isinstance(V, Learned)
        return V.loss(batch)


class WorldModelPhase(GradientPhase):
    """M, on random segments; with `scored_starts` only on those with a block that is scored.

    With `by_loss` a share is drawn by M's last loss on it, with `rewarded_segments` a share contains a scored reward.
    With `ema_decay` everything else sees a moving average of M.
    """

    name = "world_model"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._by_loss = round(shared.config.world_model.by_loss * self.settings.batch)
        self._priorities = Priorities(shared.replay.capacity)
        decay = shared.config.world_model.ema_decay
        self._average = MovingAverage(self.module, decay) if decay else None
        self._adjusted = False

    def update(self, number: int) -> Mapping[str, Tensor]:
        if number == 0 and ranks.number() == 0:
            self._check_lengths()
        if number == 0 or not self._adjusted:  # which no checkpoint says: a resumed phase finds it again
            self._adjust()
        return super().update(number)

    def _check_lengths(self) -> None:
        """Say where no episode is long enough to be learned from."""
        M, longest = self.shared.agent.world_model, int(np.bincount(self.shared.replay.first_held()).max())
        if longest <= (first := M.outcomes[1].start):
            sooner = M.config.outcome_from == "action" and M.config.decoding == "pop"
            other = ", or --world-model.outcome-from frame" * sooner
            once(f"no episode is longer than {longest}, and the world model learns from what follows the first {first} "
                 f"steps: lower --world-model.context{other}")  # fmt: skip

    def _adjust(self) -> None:
        """Tell M how often each reward came, and how often it meets it."""
        M, replay, config = self.shared.agent.world_model, self.shared.replay, self.shared.config
        if isinstance(M.adjusted, Adjusted):
            found = frequencies(
                replay, self.settings.batch, M.config.rewarded_segments, self._ahead,
                rare=config.training.rare_rewards, newest=self.newest_rows, after=self._after,
            )  # fmt: skip
            value = torch.from_numpy(found.value).to(M.adjusted.excess)
            M.adjusted.fit(M.rewards.target(value), found.came, found.drawn)
        self._adjusted = True

    @property
    def _after(self) -> int:
        """Rows of its episode that must come behind the one where a segment begins."""
        M = self.shared.config.world_model
        return M.context if M.scored_starts else 0

    @property
    def _ahead(self) -> range:
        """How far behind its first row a segment's steps are whose rewards are scored."""
        return range(self.shared.config.world_model.segment_length)[self.shared.agent.world_model.outcomes[1]]

    def draw(self) -> tuple[Segments, Segment | SegmentWithChanges]:
        M, shared, n = self.shared.config.world_model, self.shared, self.settings.batch
        if self._by_loss:
            rows = shared.replay.anchors(0, self._after)
            worst = self._priorities.draw(rows, shared.replay.total, self._by_loss, shared.rng)
            anchor = np.concatenate((worst, rows[shared.rng.integers(len(rows), size=n - len(worst))]))
            segments = shared.replay.segments(shared.rng.permutation(anchor), M.segment_length, align="start")
        else:
            segments = shared.replay.draw(
                n, M.segment_length, align="start", rng=shared.rng, after=self._after, newest=self.newest_rows
            )
        share, rare = M.rewarded_segments, shared.config.training.rare_rewards
        segments = with_rewarded(shared.replay, segments, share, self._ahead, shared.rng, align="start", rare=rare)
        batch = shared.tokenised(segments)
        if M.events:
            images = images_of(shared.replay.frames(shared.mine(segments).row), shared.agent.layout)
            changed = changes(images, batch.tokens, shared.agent.block)
            return segments, SegmentWithChanges(*batch, changed)
        return segments, batch

    def step(self, number: int, segments: Segments, batch: Any) -> Mapping[str, Tensor]:
        with contextlib.nullcontext() if self._average is None else self._average.stepping():
            return super().step(number, segments, batch)

    def note(self, segments: Segments, losses: Losses) -> None:
        if losses.segments is not None:
            self._priorities.note(segments.row[:, 0], losses.segments.float().cpu().numpy())

    def tensors(self) -> dict[str, Tensor]:
        losses = {"loss": torch.from_numpy(self._priorities.of(*self._rows))} if self._by_loss else {}
        return losses if self._average is None else losses | self._average.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self._adjusted = False
        if self._by_loss:
            self._priorities.restore(*self._rows, tensors["loss"].numpy())
        if self._average is not None:
            self._average.restore(tensors)

    @property
    def _rows(self) -> tuple[Int64[np.ndarray, " rows"], int]:
        """The rows held, and how many there ever were."""
        replay = self.shared.replay
        return np.arange(replay.oldest, replay.total), replay.total

    def loss(self, batch: Segment | SegmentWithChanges) -> Losses:
        return self.shared.agent.world_model.loss(self.shared.agent.tokenizer.codes(batch.tokens), *batch)


class ActorCriticPhase(GradientPhase):
    """C, in dreams that begin where real segments end; with `context_starts`, where M has its context, and with
    `rewarded_starts` a share of them shortly before a reward.

    With `reuse` or `minibatches`, an update is a batch of dreams and several gradient updates on it. Dreams pay for
    curiosity as long as more experience is to come.
    """

    name = "actor_critic"

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._dream_settings = dream = shared.config.dream
        if dream.group > 1:
            self.memory_field += f" or dream.group ({dream.group})"
        returns = self.settings.batch * dream.group * (dream.horizon - 1)
        self._scale = ReturnScale(returns, shared.compute.device) if dream.scale_by_quantiles else None
        self._dreaming = Captured(self._dream, shared.compute, [shared.dreaming], "dreams to learn from")

    def draw(self) -> tuple[Segments, Segment]:
        dream, shared = self._settle(), self.shared
        context = shared.config.world_model.context
        segments = starts.draw(
            shared.replay, self.settings.batch, dream, shared.rng, context=context, newest=self.newest_rows,
            rare=shared.config.training.rare_rewards,
        )  # fmt: skip
        return segments, shared.tokenised(segments)

    def loss(self, batch: Segment | Experience) -> Losses:
        agent, settings = self.shared.agent, self._dream_settings
        if isinstance(batch, Experience):
            return clipped_loss(agent, batch, settings)
        return dream_loss(agent, *batch, settings, self.shared.dreaming, self._scale)

    def update(self, number: int) -> Mapping[str, Tensor]:
        dream = self.shared.config.dream
        if dream.reuse == dream.minibatches == 1:
            return super().update(number)
        segments, batch = self.draw()
        sums: dict[str, Tensor] = {}
        for experience in minibatches(self._dreaming(batch), dream, self.shared.rng):
            figures = self.step(number, segments, experience)
            sums = {name: sums.get(name, 0) + figure for name, figure in figures.items()}
        return {name: total / (dream.reuse * dream.minibatches) for name, total in sums.items()}

    def forget(self) -> None:
        super().forget()
        self._dreaming.forget()

    def tensors(self) -> dict[str, Tensor]:
        return {} if self._scale is None else self._scale.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if self._scale is not None:
            self._scale.restore(tensors)

    def _dream(self, batch: Segment) -> Experience:
        with self.shared.compute.autocast():
            return dreamed(self.shared.agent, *batch, self._dream_settings, self.shared.dreaming, self._scale)

    def _settle(self) -> DreamConfig:
        """The config's settings, without curiosity once the last experience has been collected."""
        config = self.shared.config
        dream = config.dream
        if dream.curiosity and self.shared.replay.total >= config.env_steps:
            dream = dataclasses.replace(dream, curiosity=0.0)
        if dream != self._dream_settings:
            self._dream_settings = dream
            self.forget()
        return dream
