"""The hyper-parameters of REM, one frozen dataclass per part of the agent or of a run.

Defaults stand here and nowhere else, and they are the paper's (preset `rem`). What a field may be is said by its type,
its docstring is its `--help` text and names the paper's symbol. A new hyper-parameter is one field here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from tokendream.config.ranges import Count, CountOrNone, NonNegative, Positive, Range, Share

Perceptual = Literal["vgg16", "alexnet", "none"]
Network = Literal["conv", "patch"]
Precision = Literal["auto", "bf16", "float32"]
Log = Literal["tensorboard", "wandb"]
Control = Literal["none", "shuffled-actions", "zero-rewards", "shuffled-rewards", "blind-policy"]


FAMILIES = ("atari", "gym", "dmc", "minatar", "minigrid", "vizdoom", "crafter")
"""Families of environments, as `env.id` names them; `envs.registry` has an entry for each."""

REPEATS = {"dmc": 2, "vizdoom": 4}
"""How many steps an action usually lasts in a family, where that is not one."""


@dataclass(frozen=True)
class AtariConfig:
    """What Atari's protocol has beyond other environments'."""

    frame_skip: Count = 4
    """Raw frames an agent step lasts."""
    noop_max: Count = 30
    """Most random no-ops at the start of a training game, of which there is at least one (see `frames`)."""
    eval_noop_max: Count = 1
    """The same for evaluation; 1 means exactly one, as published."""
    life_loss_ends: bool = True
    """Whether losing a life is an `end` d_t in training (the game itself goes on)."""
    frames: Literal["published", "ale"] = "published"
    """published shrinks each raw frame by an antialiased bilinear filter, then takes the maximum of the last two, and
    counts one no-op more; ale averages areas after the maximum, in ALE's threads."""
    noop_after_life_loss: bool = False
    """Whether a step without an action, not counted, follows a lost life, as in the published code."""
    sign_rewards: bool = False
    """Whether each raw frame of a training game pays the sign of its reward alone (Simulus)."""
    time_limit_ends: bool = False
    """Whether a training game that is truncated is stored as an `end`, as in the published code."""


@dataclass(frozen=True)
class EnvConfig:
    """The environment and its protocol (Atari 100K)."""

    id: str = "atari:Breakout"
    """Also --env, --env-id or --game: an Atari game (atari:Breakout, Breakout) or any Gymnasium environment with RGB
    images and discrete actions (CartPole-v1, module:Id-v0, which imports the module first, or gym:Id)."""
    size: Annotated[int, Range(8)] = 64
    """Height and width of a frame in pixels."""
    max_frames: Count = 20_000
    """Raw frames (steps of the environment, of which an action lasts action_repeat) after which a training game is
    truncated."""
    eval_max_frames: Count = 108_000
    """Raw frames after which an evaluation game is truncated."""
    step_timeout: NonNegative = 120.0
    """Seconds in which a reset or a step must answer, or the run stops; 0 waits for ever."""
    action_repeat: CountOrNone = 0
    """Steps of the environment that an action lasts, rewards summed; 0 is what is usual in its family: 2 for dmc, 4 for
    vizdoom, else 1. Atari has env.atari.frame_skip instead."""
    kwargs: str = "{}"
    """What the environment is made with, a JSON object: --env.kwargs '{"size": 8}'."""
    wrappers: str = ""
    """Gymnasium wrappers to put around it, the innermost first: module:Wrapper,module:Other."""
    atari: AtariConfig = AtariConfig()
    """Atari's own protocol."""

    @property
    def family(self) -> str:
        """Which of FAMILIES it belongs to: the one before the colon, else atari for a bare name, else gym."""
        prefix, colon, _ = self.id.partition(":")
        if colon and prefix in FAMILIES:
            return prefix
        return "gym" if re.search(r"[/:]|-v\d+$", self.id) else "atari"

    @property
    def name(self) -> str:
        """Its name within the family: Breakout, tokendream/Catch-v0, module:Id-v0."""
        return self.id.removeprefix(f"{self.family}:")

    @property
    def label(self) -> str:
        """What people call it: its name, with that of its family where another may have the same (minatar:Breakout)."""
        return self.name if self.family in ("atari", "gym") else self.id

    @property
    def repeat(self) -> int:
        """Steps that an action lasts."""
        return self.action_repeat or REPEATS.get(self.family, 1)

    @property
    def arguments(self) -> dict[str, Any]:
        """`kwargs` as a dict."""
        return json.loads(self.kwargs)

    @property
    def game(self) -> str | None:
        """The name of an Atari game; None for any other environment."""
        return self.name if self.family == "atari" else None

    def for_evaluation(self) -> EnvConfig:
        """The same environment with an evaluation's limits in the place of training's: whole games, scored as such."""
        atari = replace(
            self.atari,
            noop_max=self.atari.eval_noop_max,
            life_loss_ends=False,
            noop_after_life_loss=False,
            time_limit_ends=False,
            sign_rewards=False,
        )
        return replace(self, max_frames=self.eval_max_frames, atari=atari)


@dataclass(frozen=True)
class TokenizerConfig:
    """V, the tokenizer."""

    kind: Literal["vq", "fsq", "dictionary"] = "vq"
    """vq is the paper's VQ-VAE; fsq rounds to a fixed grid in place of a codebook; dictionary has patches of pixels as
    codes and is not trained (not published). Of the fields below it uses downsamples, codebook_size, code_width; of
    its phase the epochs and the batch."""
    channels: Annotated[int, Range(8, multiple_of=8)] = 32
    """Channels of the encoder's first convolution; each downsampling doubles them."""
    downsamples: Annotated[int, Range(1, 16)] = 3
    """Number of halvings of the frame: 3 turns 64x64 into the 8x8 grid of K = 64 tokens."""
    codebook_size: Annotated[int, Range(2)] = 512
    """V, the number of codes."""
    code_width: Annotated[int, Range(4)] = 256
    """E, the width of a code."""
    network: Network = "conv"
    """Encoder and decoder: conv is the paper's; patch sees each cell of the grid by itself (not published)."""
    perceptual: Perceptual = "vgg16"
    """Network of the LPIPS loss: vgg16 is the paper's, alexnet is cheaper, none leaves LPIPS out."""
    perceptual_weight: NonNegative = 1.0
    """Weight of the LPIPS term."""
    revive_after: CountOrNone = 0
    """Updates without use after which a code moves onto an encoder output of the batch; 0: never, as published."""
    changed_weight: NonNegative = 0.0
    """Extra weight of the squared error on pixels that differ from the batch's mean frame (not published)."""
    lost_weight: NonNegative = 0.0
    """Extra weight of the squared error with each pixel weighted by its own error (not published)."""


@dataclass(frozen=True)
class WorldModelConfig:
    """M, the RetNet with parallel observation prediction."""

    width: Count = 256
    """D, the width of a token in the network; codes of another width are projected to it."""
    layers: Count = 5
    """N, the number of RetNet layers."""
    heads: Count = 4
    """H, the number of retention heads."""
    ffn_factor: Count = 4
    """Inner width of the feed-forward network, in units of D."""
    dropout: Annotated[float, Range(0, 0.95)] = 0.1
    """Dropout rate inside the layers."""
    segment_length: Annotated[int, Range(2)] = 10
    """T, env steps in a training segment."""
    context: Count = 2
    """First blocks of a segment that are context only and not scored."""
    scored_starts: bool = True
    """Whether segments begin only where a block is left to score behind the context, as in the published code."""
    prediction_token_std: NonNegative = 1.0
    """Standard deviation of the normal distribution that prediction tokens start from, as in the published code."""
    copy_head: bool = False
    """Whether a head of its own says how likely a token is to stay what it is (not published)."""
    token_temperature: Positive = 1.0
    """Temperature at which dreams sample the tokens of the next frame; 1 is the paper's."""
    copy_or_sample: bool = False
    """Whether the tokens of a dreamed frame may be moved from places near by in the frame before (ITC)."""
    events: bool = False
    """Whether a head also says where a frame will change, from what is predicted of it and the next (EASimulus)."""
    ensemble: Annotated[int, Range(0, 16)] = 0
    """Heads that predict the next frame for curiosity's sake, each on its share of a batch, at least 2 (Simulus: 4)."""
    backbone: Literal["retnet", "transformer", "post-norm"] = "retnet"
    """retnet is the paper's; transformer keeps keys and values instead of a state of fixed size; post-norm is the
    transformer of Simulus' later version."""
    decoding: Literal["pop", "token"] = "pop"
    """pop predicts a whole frame in one call, as the paper; token one token after the other, as IRIS."""
    own_embedding: bool = False
    """Whether M embeds tokens by a table of its own instead of V's codebook (an ablation of the paper)."""
    shortest_window: Annotated[float, Range(0, 1_000_000)] = 0.0
    """Blocks within which the quickest retention head forgets, at least 1 (Simulus: 4 of 4 to 16); 0: REM's 32 tokens.
    """
    longest_window: Annotated[float, Range(0, 1_000_000)] = 0.0
    """The same of the slowest head; those between are spaced evenly by logarithm. 0 with shortest_window 0."""
    positions: Literal["running", "grid"] = "running"
    """What rotates q and k: running numbers each token after the other, as REM; grid takes column, row and time, so
    that the same place in another frame is near (as VideoRoPE does for films)."""
    slot_embedding: bool = False
    """Whether a learned vector for each slot of a block is added to the token that stands there."""
    shared_prediction_token: bool = False
    """Whether one vector stands at all K places of a frame to predict, instead of K vectors (an ablation)."""
    local_prediction: bool = False
    """Whether a prediction token is also told the action, and the tokens around its place in the frame before (not
    published)."""
    outcome_from: Literal["action", "frame", "prediction"] = "action"
    """Where reward and end are read: at the action token, as published; there and over the predicted frame; or at the
    last prediction token of the next frame (Simulus)."""
    by_loss: Share = 0.0
    """Share of each batch whose segments are drawn by their last loss, of tokens and reward, instead of uniformly
    (Simulus: 0.3)."""
    reward_head: Literal["sign", "symlog"] = "sign"
    """What is learned of a reward: its sign, as published, which a dream draws; or its size, by 129 bins in symlog
    space (HL-Gauss, Simulus), of which a dream pays the expectation."""
    head: Literal["relu", "norm"] = "relu"
    """relu: each head is D -> D -> out, as the paper's; norm: D -> 2D -> out with LayerNorm and SiLU (Simulus)."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """C, the controller."""

    lstm_width: Count = 512
    """M, the width of the LSTM."""
    separate: bool = False
    """Whether actor and critic share nothing, not even the LSTM (Simulus, on vectors)."""
    trunk: Literal["silu", "norm"] = "silu"
    """What stands between the dense layer and the LSTM: SiLU, as the paper's, or LayerNorm and SiLU (Simulus)."""
    value_head: Literal["scalar", "symlog"] = "scalar"
    """How the critic gives a value: as one number with a squared error, as the paper's, or by 129 bins in symlog space
    with a cross-entropy (HL-Gauss, Simulus)."""
    action_inputs: bool = True
    """Whether the LSTM is told the actions taken; without is an ablation of the paper."""
    sees: Literal["codes", "pixels"] = "codes"
    """What C sees of a frame: its codes, or the pixels that they decode to (an ablation of the paper)."""


@dataclass(frozen=True)
class DreamConfig:
    """Imagination and its objective."""

    horizon: Annotated[int, Range(2)] = 9
    """Imagined steps of a dream."""
    burn_in: Count = 20
    """Real steps that warm the LSTM before a dream starts."""
    context_blocks: Count = 1
    """Blocks before the start that M absorbs, of those that warm the LSTM; with the first frame's own, M predicts from
    one block more (Simulus' later version: from 3)."""
    context_starts: bool = True
    """Whether dreams start from the third row of an episode on, where M has two blocks of context, as published."""
    burn_in_actions: bool = True
    """Whether the LSTM also receives the past actions while it warms up; the published code forgets them."""
    discount: Share = 0.995
    """γ, the discount of the returns."""
    lam: Share = 0.95
    """λ of the λ-returns."""
    entropy_weight: NonNegative = 0.001
    """Weight of the policy's entropy bonus."""
    curiosity: NonNegative = 0.0
    """w_int, the weight of what world_model.ensemble disagrees about in the reward of a dreamed step, in nats a token,
    until the last experience has been collected (Simulus: 1 on Atari)."""
    reward_weight: NonNegative = 1.0
    """w_ext, the weight of the predicted reward in the reward of a dreamed step."""
    mask_after_end: bool = False
    """Leave out of the loss what was dreamed after an end (the published code keeps it)."""
    centre_advantage: bool = False
    """Subtract the batch's mean advantage, so that values that lag behind favour no action (not published)."""
    reuse: Count = 1
    """Gradient updates on each batch of dreams; from 2 on by the clipped objective of PPO (not published)."""
    scale_advantage: bool = False
    """Divide the advantages by their root mean square, so that the entropy weight suits any game (not published)."""
    scale_by_quantiles: bool = False
    """Divide the advantages by half of what lies between the 2.5% and the 97.5% quantile of the returns of the last 500
    updates, where that is more than 1 (Simulus); not together with `scale_advantage`."""


@dataclass(frozen=True)
class CollectConfig:
    """Experience from the real environment."""

    steps: Count = 200
    """Env steps an epoch."""
    last_epoch: Count = 500
    """Last epoch in which experience is collected."""
    epsilon: Share = 0.01
    """ε, the probability of a uniformly random action."""
    temperature: Positive = 1.0
    """Temperature at which the other actions are sampled (the paper: 1, though it evaluates at 0.5)."""
    forget_every_epoch: bool = False
    """Whether the memory of the open game is cleared at every epoch and warmed on the last steps, as published."""
    capacity: Count = 100_000
    """Env steps that the replay buffer holds; the oldest are overwritten beyond it."""
