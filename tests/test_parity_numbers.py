"""The package in float64 against tests/parity/*.npz: REM's equations written a second time, in numpy alone.

`scripts/parity_numbers.py` makes the files and imports nothing of ours. Every difference is rounding.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from blocks import image_block

from tokendream.agent.actor_critic import ActorCritic
from tokendream.agent.world_model import WorldModel
from tokendream.config.parts import ActorCriticConfig, DreamConfig, TokenizerConfig, WorldModelConfig
from tokendream.data.batch import Steps
from tokendream.dream.imagine import Rollout
from tokendream.dream.objective import actor_critic_loss, lambda_returns
from tokendream.spaces.actions import Discrete
from tokendream.tokenizers.vq import VQTokenizer

Numbers = dict[str, torch.Tensor]


def numbers(part: str) -> tuple[Numbers, Numbers]:
    """Parameters by the names of the numpy script, and inputs and outputs."""
    with np.load(Path(__file__).parent / "parity" / f"{part}.npz") as file:
        read = {name: torch.from_numpy(file[name]) for name in file.files}
    weights = {k.removeprefix("weight."): v.double() for k, v in read.items() if k.startswith("weight.")}
    return weights, {k: v for k, v in read.items() if not k.startswith("weight.")}


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


def test_tokenizer():
    weights, known = numbers("tokenizer")
    V = VQTokenizer(TokenizerConfig(channels=8, downsamples=2, codebook_size=20, code_width=12, perceptual="none"))
    named = {"quantizer.codebook": weights.pop("codebook")}
    for name, value in weights.items():
        layer, _, rest = name.partition(".")
        blocks = layer in ("encoder", "decoder") and rest[0].isdigit()
        named[f"{layer}.blocks.{rest}" if blocks else name] = value
    V = V.double()
    V.load_state_dict(named)
    frames = known["in.frames"]
    assert torch.equal(V.encode(frames), known["out.tokens"])
    losses = V.loss(frames).terms
    close(torch.stack([losses[name] for name in ("reconstruction", "codebook", "commitment")]), known["out.losses"])
    shown = (known["out.decoded"].clamp(-1, 1) + 1) * 127.5
    assert (V.decode(known["out.tokens"]).double() - shown).abs().max() <= 0.5 + 1e-6


def world_model(weights: Numbers) -> WorldModel:
    config = WorldModelConfig(width=16, layers=2, heads=2, dropout=0.0, context=2)
    M = WorldModel(config, image_block(2, 11, Discrete(3)), 16).double()
    named = {"prediction_tokens": weights["prediction_tokens"], "action_embedding.weight": weights["action_embedding"]}
    for i in range(2):
        layer, ours = f"layer{i}", f"backbone.layers.{i}"
        for kind in ("weight", "bias"):
            four = [weights[f"{layer}.{part}.{kind}"] for part in ("q", "k", "v", "gate")]
            named[f"{ours}.qkvg.{kind}"] = torch.cat(four)
            for part in ("norm_retention", "out", "norm_ffn", "ffn_in", "ffn_out"):
                named[f"{ours}.{part}.{kind}"] = weights[f"{layer}.{part}.{kind}"]
    for head in ("next_frame", "reward", "end"):
        for ours, theirs in ((0, 0), (2, 1)):
            for kind in ("weight", "bias"):
                named[f"{head}.{ours}.{kind}"] = weights[f"{head}.{theirs}.{kind}"]
    M.load_state_dict(named)
    return M.eval()


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_world_model_by_pop(cut):
    """All blocks at once, and cut in two: POP's outputs are those of the recurrence token by token."""
    weights, known = numbers("world_model")
    M = world_model(weights)
    tokens, action = known["in.tokens"], known["in.action"]
    codes, state, found = weights["codebook"][tokens], M.initial_state(2), []
    for part in (slice(0, cut), slice(cut, None)) if cut else (slice(None),):
        prediction, state = M(codes[:, part], tokens[:, part], action[:, part], state)
        found.append(prediction)
    for name in ("next_frame", "reward", "end"):
        close(torch.cat([getattr(prediction, name) for prediction in found], dim=1), known[f"out.{name}"])


def test_world_model_s_loss():
    weights, known = numbers("world_model")
    steps = Steps(known["in.action"], known["in.reward"].float(), known["in.end"], known["in.mask"])
    tokens = known["in.tokens"]
    terms = world_model(weights).loss(weights["codebook"][tokens], tokens, steps).terms
    close(torch.stack([terms[name] for name in ("next_frame", "reward", "end")]), known["out.losses"])


def test_controller_and_its_losses():
    weights, known = numbers("controller")
    block = image_block(2, 11, Discrete(4))
    C = ActorCritic(ActorCriticConfig(lstm_width=10), block, 8, 0).double()
    weights["action_embedding.weight"] = weights.pop("action_embedding")
    C.load_state_dict(weights)
    state, outputs = C.initial_state(2), []
    for t in range(5):
        output, state = C(known["in.codes"][:, t], state)
        state = C.absorb_action(known["in.action"][:, t], state)
        outputs.append(output)
    logits, values, critic = (torch.stack(column, dim=1) for column in zip(*outputs, strict=True))
    close(logits, known["out.logits"])
    close(values, known["out.value"])

    discount, lam, entropy_weight = known["in.settings"].tolist()
    rewards, ends = known["in.rewards"], known["in.ends"]
    close(lambda_returns(rewards, values, ends, discount=discount, lam=lam), known["out.returns"])
    tokens = torch.zeros(2, 5, 4, dtype=torch.int64)
    rollout = Rollout(tokens, logits, values, known["in.action"], rewards, ends, critic)
    settings = DreamConfig(discount=discount, lam=lam, entropy_weight=entropy_weight)
    terms = actor_critic_loss(rollout, block.actions, settings).terms
    close(torch.stack([terms[name] for name in ("policy", "value", "entropy")]), known["out.losses"])
