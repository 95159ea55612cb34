"""The hyper-parameters of REM, one frozen dataclass per part of the agent or of a run.

Defaults stand here and nowhere else, and they are the paper's (preset `rem`). What a field may be is said by its type,
its docstring is its `--help` text and names the paper's symbol. A new hyper-parameter is one field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tokendream.config.ranges import Count, CountOrZero, NonNegative, Positive, Range, Share

FITTED = ("dictionary", "pretrained")
"""Kinds of tokenizers that are built from what is collected, without gradient."""

Control = Literal["none", "shuffled-actions", "zero-rewards", "shuffled-rewards", "blind-policy"]


@dataclass(frozen=True)
class TokenizerConfig:
    """V, the tokenizer."""

    kind: Literal["vq", "fsq", "dictionary", "pretrained"] = "vq"
    """vq is the paper's VQ-VAE; fsq rounds to a fixed grid in place of a codebook (FSQ, Simulus' later version);
    dictionary has patches of pixels as codes, pretrained means of features of VGG16, and neither is trained (not
    published). Of the fields below they use downsamples, codebook_size, code_width (pretrained: tap); of their phase
    the epochs and the batch."""
    channels: Annotated[int, Range(8, multiple_of=8)] = 32
    """Channels of the encoder's first convolution; each downsampling doubles them."""
    downsamples: Annotated[int, Range(1, 16)] = 3
    """Times that the frame is downsampled by two: 3 turn 64x64 into the 8x8 grid of K = 64 tokens."""
    codebook_size: Annotated[int, Range(2)] = 512
    """V, the number of codes."""
    code_width: Annotated[int, Range(4)] = 256
    """E, the width of a code."""
    map_cells: Count = 1
    """Cells along the side of the square of a map that one token stands for, 1 for a map that does not divide into such
    squares; codebook_size says how many the book of a map holds."""
    stretched: bool = False
    """Whether features that their space keeps within ±3.1 are multiplied until they fill it (not published)."""
    network: Literal["conv", "patch"] = "conv"
    """Encoder and decoder: conv is the paper's; patch sees each cell of the grid by itself (not published)."""
    perceptual: Literal["vgg16", "alexnet", "none"] = "vgg16"
    """Network of the LPIPS loss: vgg16 is the paper's, alexnet is cheaper, none leaves LPIPS out."""
    perceptual_weight: NonNegative = 1.0
    """Weight of the LPIPS term."""
    revive_after: CountOrZero = 0
    """Updates without use after which a code moves onto an encoder output of the batch; 0: never, as published."""
    changed_weight: NonNegative = 0.0
    """Extra weight of the squared error on pixels that differ from the batch's mean frame (not published)."""
    lost_weight: NonNegative = 0.0
    """Extra weight of the squared error with each pixel weighted by its own error (not published)."""
    tap: Annotated[int, Range(1, 5)] = 2
    """Which of the five outputs of VGG16 that LPIPS compares kind pretrained takes, from the shallowest on."""


@dataclass(frozen=True)
class WorldModelConfig:
    """M, the world model: a backbone with parallel observation prediction."""

    width: Count = 256
    """D, the width of a token in the network; codes of another width are projected to it."""
    layers: Count = 5
    """N, the number of layers of the backbone."""
    heads: Count = 4
    """H, the number of heads of a layer."""
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
    """The same of the slowest head (Simulus: 16); those between are spaced evenly by logarithm. 0 with shortest_window
    0."""
    positions: Literal["running", "grid"] = "running"
    """What rotates q and k: running numbers each token after the other, as REM; grid takes column, row and time, so
    that the same place in another frame is near (as VideoRoPE does for films)."""
    slot_embedding: bool = False
    """Whether a learned vector for each slot of a block is added to the token that stands there, as is usual in
    Transformers."""
    shared_prediction_token: bool = False
    """Whether all K prediction tokens share one learned vector (an ablation)."""
    local_prediction: bool = False
    """Whether a prediction token is also told the action, and the tokens around its place in the frame before (not
    published)."""
    logits_from_codes: bool = False
    """Whether a token's logit also has the product of its code with one that is predicted, so that what is learned of a
    token holds of those that look like it (not published)."""
    outcome_from: Literal["action", "frame", "prediction"] = "action"
    """Where reward and end are read: at the action token, as published; there and over the predicted frame; or at the
    last prediction token of the next frame (Simulus)."""
    by_loss: Share = 0.0
    """Share of each batch whose segments are drawn by their last loss, of tokens and reward, instead of uniformly
    (Simulus: 0.3)."""
    ema_decay: Annotated[float, Range(0, 0.9999)] = 0.0
    """Decay of a moving average of M's weights, which dreams, games and diagnoses then use (not published); 0 for no
    average."""
    rewarded_segments: Share = 0.0
    """Share of each batch whose segments begin shortly before a reward, instead of at any step; see
    training.rare_rewards."""
    logit_adjustment: bool = False
    """Whether rewards are learned as often as they came where rewarded_segments draws them more often (Menon et al.,
    arXiv 2007.07314)."""
    reward_head: Literal["sign", "seen", "symlog"] = "sign"
    """What is learned of a reward: its sign, as published, which a dream draws; which of the 63 first sizes that were
    seen, 10% apart or more (C's dreams pay them in units of their mean; not published); or its size by 129 bins in
    symlog space (HL-Gauss, Simulus), of which a dream pays the number at the mean: less than the expectation where a
    reward is rare and large."""
    reward_heads: Annotated[int, Range(1, 16)] = 1
    """Heads that expect a reward, of which a dream pays the expectation nearest to 0, and nothing where one expects to
    gain and another to lose (not published)."""
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
    """Whether dreams start only behind `world_model.context` rows of their episode, as published (two)."""
    rewarded_starts: Share = 0.0
    """Share of a batch's starts that are drawn from the moments in whose next horizon - 1 real steps a reward came,
    instead of from all (not published): where rewards are rare, most dreams meet none."""
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
    expected_reward: bool = False
    """Whether a dreamed step pays M's expected reward instead of a sample: the same mean, less variance (not
    published)."""
    mask_after_end: bool = False
    """Leave out of the loss what was dreamed after an end (the published code keeps it)."""
    group: Count = 1
    """Dreams from each start. From 2 on they differ in C's actions alone, as chance falls alike in all of them, and an
    advantage is what a dream has beyond the others of its group (common random numbers and leave-one-out, not
    published)."""
    centre_advantage: bool = False
    """Subtract the batch's mean advantage, so that values that lag behind favour no action (not published)."""
    reuse: Count = 1
    """How often each batch of dreams is learned from; from 2 on by the clipped objective of PPO (not published)."""
    minibatches: Count = 1
    """Gradient updates each time, on a random share of the dreams each; more than 1 needs the clipped objective too."""
    scale_advantage: bool = False
    """Divide the advantages by their root mean square, so that the entropy weight suits any game (not published)."""
    scale_by_quantiles: bool = False
    """Divide the advantages by half of what lies between the 2.5% and the 97.5% quantile of the returns of the last 500
    updates, where that is more than 1 (Simulus); not together with `scale_advantage`."""


@dataclass(frozen=True)
class CollectConfig:
    """Experience from the real environment."""

    steps: Count = 200
    """Env steps an epoch, of all environments together."""
    envs: Count = 1
    """Environments that are played at once, each choice of their actions one call; collect.steps is a multiple."""
    last_epoch: Count = 500
    """Last epoch in which experience is collected."""
    epsilon: Share = 0.01
    """ε, the probability of a uniformly random action."""
    sticky_actions: Share = 0.0
    """Probability that the action before is taken again, whatever C chose: so M sees what a held key does."""
    temperature: Positive = 1.0
    """Temperature at which the other actions are sampled (the paper: 1, though it evaluates at 0.5)."""
    forget_every_epoch: bool = False
    """Whether the memory of the open game is cleared at every epoch and warmed on the last steps, as published."""
    capacity: Count = 100_000
    """Env steps that the replay buffer holds; the oldest are overwritten beyond it."""
