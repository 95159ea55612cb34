"""The hyper-parameters of REM as frozen dataclasses, one class per table of the paper.

Defaults stand here and nowhere else, and they are the paper's (preset `rem`). A field's docstring is its
`--help` text and names the paper's symbol. Sizes that follow from others are properties. Facts learnt at run
time (the number of actions, the device found) are never written back into a config.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

from tokendream.config import limits
from tokendream.config.parsing import read
from tokendream.errors import ConfigError, shorten

FORMAT = 1
"""Version of the config's JSON; a file with another number is refused by name."""

Perceptual = Literal["vgg16", "alexnet", "none"]
Network = Literal["conv", "patch"]
Precision = Literal["auto", "bf16", "float32"]
Control = Literal["none", "shuffled-actions", "zero-rewards", "dealt-rewards", "blind-policy"]


@dataclass(frozen=True)
class EnvConfig:
    """The environment's protocol (Atari 100K)."""

    size: int = 64
    """Height and width of a frame in pixels."""
    frame_skip: int = 4
    """Raw frames an agent step lasts (Atari only)."""
    noop_max: int = 30
    """Random no-ops at the start of a training game are fewer than this, 0 included (Atari only)."""
    eval_noop_max: int = 1
    """The same for evaluation; 1 means none, as published."""
    max_frames: int = 20_000
    """Raw frames after which a training game is truncated."""
    eval_max_frames: int = 108_000
    """Raw frames after which an evaluation game is truncated."""
    life_loss_ends: bool = True
    """Whether losing a life is an `end` d_t in training (the game itself goes on)."""
    step_timeout: float = 120.0
    """Seconds in which a reset or a step must answer, or the run stops; 0 waits for ever."""


@dataclass(frozen=True)
class TokenizerConfig:
    """V, the VQ-VAE."""

    channels: int = 32
    """Channels of the encoder's first convolution; each downsampling doubles them."""
    downsamples: int = 3
    """Number of halvings of the frame: 3 turns 64x64 into the 8x8 grid of K = 64 tokens."""
    codebook_size: int = 512
    """V, the number of codes."""
    code_width: int = 256
    """E, the width of a code; it is also the width D of the world model, which shares the codebook."""
    network: Network = "conv"
    """Encoder and decoder: conv is the paper's; patch sees each cell of the grid by itself (not published)."""
    perceptual: Perceptual = "vgg16"
    """Network of the LPIPS loss: vgg16 is the paper's, alexnet is cheaper, none leaves LPIPS out."""
    perceptual_weight: float = 1.0
    """Weight of the LPIPS term."""
    revive_after: int = 0
    """Updates without use after which a code moves onto an encoder output of the batch; 0: never, as published."""
    changed_weight: float = 0.0
    """Extra weight of the squared error on pixels that differ from the batch's mean frame (not published)."""
    lost_weight: float = 0.0
    """Extra weight of the squared error with each pixel weighted by its own error (not published)."""


@dataclass(frozen=True)
class WorldModelConfig:
    """M, the RetNet with parallel observation prediction."""

    layers: int = 5
    """N, the number of RetNet layers."""
    heads: int = 4
    """H, the number of retention heads."""
    ffn_factor: int = 4
    """Inner width of the feed-forward network, in units of D."""
    dropout: float = 0.1
    """Dropout rate inside the layers."""
    segment_length: int = 10
    """T, env steps in a training segment."""
    context: int = 2
    """First blocks of a segment that are context only and not scored."""
    stay: bool = False
    """Whether a head of its own says how likely a token is to stay what it is (not published)."""
    token_temperature: float = 1.0
    """Temperature at which dreams sample the tokens of the next frame; 1 is the paper's."""
    backbone: Literal["retnet", "transformer"] = "retnet"
    """retnet is the paper's; transformer keeps keys and values instead of a state of fixed size."""
    decoding: Literal["pop", "token"] = "pop"
    """pop predicts a whole frame in one call, as the paper; token one token after the other, as IRIS."""
    own_embedding: bool = False
    """Whether M embeds tokens by a table of its own instead of V's codebook (an ablation of the paper)."""
    shared_prediction_token: bool = False
    """Whether one vector stands at all K places of a frame to predict, instead of K vectors (an ablation)."""


@dataclass(frozen=True)
class ActorCriticConfig:
    """C, the controller."""

    lstm_width: int = 512
    """M, the width of the LSTM."""
    action_inputs: bool = True
    """Whether the LSTM hears the actions taken; without is an ablation of the paper."""
    sees: Literal["codes", "pixels"] = "codes"
    """What C sees of a frame: its codes, or the pixels that they decode to (an ablation of the paper)."""


@dataclass(frozen=True)
class DreamConfig:
    """Imagination and its objective."""

    horizon: int = 9
    """Imagined steps of a dream."""
    burn_in: int = 20
    """Real steps that warm the LSTM before a dream starts."""
    burn_in_actions: bool = True
    """Whether the LSTM also receives the past actions while it warms up; the published code forgets them."""
    discount: float = 0.995
    """γ, the discount of the returns."""
    lam: float = 0.95
    """λ of the λ-returns."""
    entropy_weight: float = 0.001
    """Weight of the policy's entropy bonus."""
    mask_after_end: bool = False
    """Leave out of the loss what was dreamed after an end (the published code keeps it)."""
    centre_advantage: bool = False
    """Subtract the batch's mean advantage, so that values that lag behind favour no action (not published)."""
    scale_advantage: bool = False
    """Divide the advantages by their root mean square, so that the entropy weight suits any game (not published)."""


@dataclass(frozen=True)
class CollectConfig:
    """Experience from the real environment."""

    steps: int = 200
    """Env steps an epoch."""
    last_epoch: int = 500
    """Last epoch in which experience is collected."""
    epsilon: float = 0.01
    """ε, the probability of a uniformly random action."""
    temperature: float = 1.0
    """Temperature at which the other actions are sampled (the paper: 1, though it evaluates at 0.5)."""
    capacity: int = 100_000
    """Env steps that the replay buffer holds; the oldest are overwritten beyond it."""


@dataclass(frozen=True)
class PhaseConfig:
    """The updates of one part of the agent within an epoch."""

    first_epoch: int
    """First epoch in which this part is trained (epochs count from 1)."""
    updates: int
    """Gradient updates an epoch."""
    batch: int
    """B: frames for the tokenizer, segments for the world model, dreams for the actor-critic."""
    learning_rate: float
    """AdamW's step size."""
    weight_decay: float
    """AdamW's decoupled weight decay."""
    clip: float
    """Largest L2 norm of the gradient."""
    last_epoch: int = 1_000_000
    """Last epoch in which this part is trained."""


@dataclass(frozen=True)
class TrainingConfig:
    """The three gradient phases of an epoch, in their order."""

    tokenizer: PhaseConfig = PhaseConfig(6, 200, 128, 1e-4, 0.01, 10.0)
    """Updates of V, on single frames."""
    world_model: PhaseConfig = PhaseConfig(26, 200, 64, 2e-4, 0.05, 100.0)
    """Updates of M, on segments; its weight decay acts on matrices only."""
    actor_critic: PhaseConfig = PhaseConfig(51, 100, 128, 1e-4, 0.01, 3.0)
    """Updates of C, on dreams."""
    cache_tokens: bool = True
    """Whether a frame of the replay is encoded once while V stays as it is, not in every update that reads it."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on full games."""

    episodes: int = 100
    """Episodes after training."""
    every: int = 50
    """Epochs between evaluations during training; 0 for none."""
    episodes_during: int = 16
    """Episodes of an evaluation during training."""
    temperature: float = 0.5
    """Temperature at which evaluation samples actions."""


@dataclass(frozen=True)
class Config:
    """Everything that determines a run, apart from the machine."""

    preset: str = "rem"
    """Name of the preset that this config starts from."""
    game: str = "Breakout"
    """Atari game, by its name in the Atari 100K benchmark."""
    env_id: str = ""
    """Any Gymnasium environment with RGB image observations and discrete actions, instead of an Atari game."""
    seed: int = 0
    """Seed of every random number of the run."""
    epochs: int = 600
    """Training cycles."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "auto"
    """Matrix products in bf16 or float32; auto takes bf16 where the device is fast at it."""
    kernels: bool = True
    """On a CPU with a C++ compiler, do what lies between matrix products in compiled passes of our own."""
    capture: bool = True
    """Whether a GPU captures each update as one graph and replays it; the same figures, launched at once."""
    compile: bool = False
    """Let torch.compile make the passes of updates, for a minute at the start; for GPUs, no gain on a CPU."""
    deterministic: bool = False
    """Whether a run on a GPU repeats itself to the bit, at some cost; a run on a CPU always does."""
    control: Control = "none"
    """A link cut on purpose, to see that nothing is learnt without it: M is trained on other steps' actions, dreams
    pay nothing or another dream's rewards, C sees no frame."""
    checkpoint_every: int = 10
    """Epochs between checkpoints; one is also written at the end and on Ctrl-C."""
    env: EnvConfig = field(default_factory=EnvConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)

    @property
    def grid(self) -> int:
        """Side of the token grid."""
        return self.env.size >> self.tokenizer.downsamples

    @property
    def tokens_per_frame(self) -> int:
        """K."""
        return self.grid**2

    @property
    def block_length(self) -> int:
        """K1 = K + 1: a frame's tokens and the action that follows them."""
        return self.tokens_per_frame + 1

    @property
    def env_name(self) -> str:
        """What the agent plays, as people call it."""
        return self.env_id or self.game

    def __post_init__(self) -> None:
        limits.check(self)

    def to_json(self) -> str:
        """The config as JSON text, with the format's version."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> Config:
        """Read `to_json`'s text, or an older one's. Raises ConfigError naming what is unknown or of another type."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"config is not JSON: {error}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"config must be a JSON object, not {type(data).__name__}")
        version = data.pop("format", None)
        if version != FORMAT:
            raise ConfigError(f"config has format {shorten(version)}; this tokendream reads format {FORMAT}")
        return read(Config, data, "config")
