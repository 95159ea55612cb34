"""Copy or sample: the assignment is the best there is, frames are made of it, and only dreamed frames are copied."""

import itertools

import pytest
import torch
from blocks import image_block

from tokendream.agent.agent import Agent
from tokendream.config.config import vary
from tokendream.config.presets import TINY
from tokendream.data.batch import Steps
from tokendream.dream import imagine
from tokendream.nn.correspondence import BONUS, DISTANCE_PRICE, EPSILON, Correspondence, assign
from tokendream.spaces.actions import Discrete
from tokendream.spaces.observations import Block, Slot
from tokendream.spaces.places import distances


def total(gain, chosen):
    """What an assignment gains, a number for each of the batch."""
    return gain.gather(-1, chosen.clamp(min=0)[..., None])[..., 0].masked_fill(chosen < 0, 0).sum(-1)


def best(gain):
    """By trying every assignment of K bidders to N objects or none."""
    K, N = gain.shape
    with_none = torch.cat((gain, torch.zeros(K, K, dtype=gain.dtype)), dim=1)
    ways = itertools.permutations(range(N + K), K)
    return max(float(sum(with_none[k, i] for k, i in enumerate(way))) for way in ways)


@pytest.mark.parametrize("size", [(3, 3), (4, 2), (2, 5), (4, 4)])
@pytest.mark.parametrize("kind", ["random", "ties", "forbidden"])
def test_an_assignment_equals_the_best_of_all(size, kind):
    """To the last bid of ε; ties, gains apart by .05 or not at all, are where bidders outbid each other longest."""
    epsilon = 1e-4 if kind == "ties" else 1e-6
    gain = torch.randn(12, *size, dtype=torch.float64) * 0.4 + 0.2
    if kind == "ties":
        gain = torch.randint(-1, 3, gain.shape).double() / 20
    if kind == "forbidden":
        gain[torch.rand(gain.shape) < 0.4] = -torch.inf
    chosen = assign(gain, epsilon=epsilon, rounds=1_000_000)
    for one, of in zip(chosen, gain, strict=True):
        assert len(set(one[one >= 0].tolist())) == int((one >= 0).sum())  # each object goes to one bidder at most
        assert float(total(of[None], one[None])) == pytest.approx(best(of), abs=size[0] * epsilon)


def test_an_auction_that_is_broken_off_is_valid_and_good_from_the_first_round_on():
    torch.manual_seed(0)
    gain = torch.rand(8, 12, 12) - 0.3
    full = total(gain, assign(gain, rounds=10_000))
    gains = []
    for rounds in (1, 2, 4, 8, 16):
        chosen = assign(gain, rounds=rounds)
        for one in chosen:
            assert len(set(one[one >= 0].tolist())) == int((one >= 0).sum())
        assert (total(gain, chosen) <= full + 12 * EPSILON).all()
        gains.append(float(total(gain, chosen).sum()))
    assert gains == sorted(gains)
    assert gains[-1] > 0.95 * float(full.sum())


@pytest.mark.parametrize("rounds", [1, 3, 16])
def test_looking_at_everybody_in_every_round_is_the_same(rounds):
    """As a GPU does, whose shapes are fixed."""
    gain = torch.rand(5, 9, 9) - 0.4
    assert torch.equal(assign(gain, rounds=rounds, fixed_shapes=True), assign(gain, rounds=rounds, fixed_shapes=False))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and GPU_TESTS=1")
def test_an_auction_on_a_gpu_is_that_on_a_cpu():
    gain = torch.rand(128, 64, 64) - 0.4
    assert torch.equal(assign(gain.cuda()).cpu(), assign(gain))


def test_a_frame_is_what_costs_least(monkeypatch):
    """The costs of the source, written out, over every choice of copies and candidates."""
    K, V = 4, 5
    distance = distances(image_block(2, V, Discrete(2)))
    module = Correspondence(distance)
    for _ in range(20):
        logits, before = 2 * torch.randn(1, K, V), torch.randint(V, (1, K))
        drawn = torch.randint(V, (1, K))
        p = logits[0].softmax(-1)
        costs = torch.full((K, 2 * K), torch.inf)
        for j in range(K):
            costs[j, K + j] = -p[j, drawn[0, j]]
            for i in range(K):
                costs[j, i] = DISTANCE_PRICE * distance[j, i] - p[j, before[0, i]] - BONUS

        def cost(ways, costs=costs):
            return float(sum(costs[j, w] for j, w in enumerate(ways)))

        least = min(itertools.permutations(range(2 * K), K), key=cost)
        frame = module(logits, before, drawn)[0]
        sources = torch.cat((before[0], drawn[0]))
        found = [min(cost(w) for w in itertools.permutations(range(2 * K), K) if torch.equal(sources[list(w)], frame))]
        assert found[0] <= cost(least) + K * EPSILON


def test_a_ball_that_moves_keeps_being_one_ball():
    """M is sure that it moved on, but not where to; sampled plainly it is lost or doubled in half of all dreams."""
    side, ball, n = 4, 1, 400
    K = side**2
    before = torch.zeros(n, K, dtype=torch.int64)
    before[:, 5] = ball
    p_ball = torch.full((K,), 1e-4)
    p_ball[6], p_ball[9] = 0.55, 0.45
    p = torch.stack((1 - p_ball, p_ball), dim=-1)
    drawn = torch.multinomial(p, n, replacement=True, generator=torch.Generator().manual_seed(0)).T
    frame = Correspondence(distances(image_block(side, 2, Discrete(2))))(p.log().expand(n, K, 2), before, drawn)
    one = [float(((f == ball).sum(1) == 1).float().mean()) for f in (drawn, frame)]
    assert one[0] < 0.6
    assert one[1] > one[0]


def test_features_of_a_vector_stay_in_their_slots_and_parts_to_themselves():
    slots = [Slot("image", "image", 9, (r, c)) for r in range(2) for c in range(2)]
    slots += [Slot("vector", "vector", 9, (i,)) for i in range(2)]
    distance = distances(Block(tuple(slots), Discrete(2)))
    assert distance[:4, :4].tolist() == [[0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]]
    assert distance[:4, 4:].isinf().all()
    assert distance[4:, 4:].isinf().tolist() == [[False, True], [True, False]]


def test_the_first_dreamed_frame_is_drawn_plainly_and_later_ones_go_through_it(monkeypatch):
    torch.manual_seed(0)
    agent = Agent.from_config(vary(TINY, "world_model", copy_or_sample=True), 3).double().eval()
    torch.nn.init.normal_(agent.tokenizer.quantizer.codebook)
    tokens = torch.randint(TINY.tokenizer.codebook_size, (2, 4, TINY.tokens_per_frame))
    steps = Steps(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool),
                  torch.ones(2, 4, dtype=torch.bool))  # fmt: skip
    seen = []
    plain = agent.world_model.correspondence.forward
    monkeypatch.setattr(
        agent.world_model.correspondence, "forward",
        lambda logits, before, drawn, **k: seen.append((before, drawn)) or plain(logits, before, drawn, **k),
    )  # fmt: skip
    dream = imagine.start(agent, tokens, steps, TINY.dream)
    assert not dream.begun
    rollout = imagine.imagine(dream, agent, 4, torch.Generator().manual_seed(0))
    assert len(seen) == 3
    assert torch.equal(seen[0][0], rollout.tokens[:, 1])
    assert torch.equal(plain(*[imagine_logits(agent, dream, rollout, 1)], *seen[0]), rollout.tokens[:, 2])


def imagine_logits(agent, dream, rollout, t):
    """What M predicts of the frame after the t-th dreamed one."""
    state = dream.world
    for s in range(t + 1):
        frame = rollout.tokens[:, s]
        prediction, state = agent.world_model(
            agent.tokenizer.codes(frame)[:, None], frame[:, None], rollout.actions[:, s, None], state
        )
    return prediction.next_frame[:, 0]
