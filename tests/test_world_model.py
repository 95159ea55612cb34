import pytest
import torch
from blocks import image_block

from tokendream.agent.world_model import WorldModel
from tokendream.config.parts import WorldModelConfig
from tokendream.config.presets import CPU, REM
from tokendream.data.batch import Steps
from tokendream.nn.seen import Seen
from tokendream.spaces.actions import Discrete

B, T, K, D, V, A = 2, 5, 4, 16, 11, 3


def world_model(dtype=torch.float64, codes=D, embed=None, **overrides):
    torch.manual_seed(1)
    config = WorldModelConfig(**{"width": D, "layers": 2, "heads": 2, "dropout": 0.0} | overrides)
    return WorldModel(config, image_block(2, V, Discrete(A)), codes, embed).to(dtype)


four_ways = pytest.mark.parametrize(
    "how", [{"backbone": b, "decoding": d} for b in ("retnet", "transformer") for d in ("pop", "token")], ids=str
)


EXTRAS = [
    {},
    {"copy_head": True},
    {"local_prediction": True},
    {"outcome_from": "frame"},
    {"outcome_from": "prediction", "head": "norm"},
    {"reward_head": "symlog"},
    {"reward_head": "seen"},
    {"local_prediction": True, "outcome_from": "frame", "own_embedding": True},
    {"slot_embedding": True, "positions": "grid"},
    {"shortest_window": 1.0, "longest_window": 3.0},
]
all_extras = pytest.mark.parametrize("extras", EXTRAS, ids=str)
"""What the paper does not have."""


def possible(how, extras) -> dict:
    """Token by token there are no prediction tokens to add anything to; a Transformer does not decay."""
    if how["backbone"] == "transformer" and "shortest_window" in extras:
        pytest.skip("refused by the config")
    if how["decoding"] == "token" and not {"local_prediction", "outcome_from"}.isdisjoint(extras):
        pytest.skip("refused by the config")
    return how | extras


@pytest.fixture
def case():
    codebook = torch.randn(V, D, dtype=torch.float64)
    tokens = torch.randint(V, (B, T, K))
    steps = Steps(
        action=torch.randint(A, (B, T)),
        reward=torch.randint(-2, 3, (B, T)).float(),
        end=torch.rand(B, T) < 0.3,
        mask=torch.ones(B, T, dtype=torch.bool),
    )
    return codebook, tokens, steps


@four_ways
@all_extras
def test_training_logits_are_imagination_logits(case, monkeypatch, how, extras):
    """What is trained on T blocks at once is what dreams block by block, and what frames are sampled from."""
    codebook, tokens, steps = case
    M = world_model(**possible(how, extras)).eval()
    dreamed: list[torch.Tensor] = []

    def replay(logits, generator, *, temperature=1.0, alike=1):
        """Draws what really happened."""
        dreamed.append(logits)
        if logits.shape[-1] != V:
            return torch.zeros(logits.shape[:-1], dtype=torch.int64)
        return tokens[:, t + 1] if logits.ndim == 3 else tokens[:, t + 1, len(dreamed) - 1]

    monkeypatch.setattr("tokendream.agent.world_model.sample", replay)
    monkeypatch.setattr(M.rewards, "sample", lambda logits, *_: replay(logits, None).to(torch.float64))
    monkeypatch.setattr(M.draw_tokens, "forward", replay)
    whole, _ = M(codebook[tokens], tokens, steps.action, M.initial_state(B), slice(0, -1))
    state = M.initial_state(B)
    for t in range(T - 1):
        dreamed.clear()
        frame = tokens[:, t]
        _, _, state = M.imagine(codebook[frame], frame, steps.action[:, t], state, embed=lambda z: codebook[z])
        *next_frame, reward, end = dreamed
        assert torch.allclose(torch.stack(next_frame, 1).view(B, K, V), whole.next_frame[:, t], atol=1e-12)
        assert torch.allclose(reward, whole.reward[:, t], atol=1e-12)
        assert torch.allclose(end, whole.end[:, t], atol=1e-12)


@four_ways
@all_extras
def test_the_loss_is_its_definition(case, how, extras):
    """Rewards and ends are scored from block `context` on, or of the blocks whose next frame is predicted."""
    codebook, tokens, steps = case
    steps.mask[1, 4:] = False
    M = world_model(context=2, **possible(how, extras))
    if isinstance(M.rewards, Seen):
        M.rewards.fit(steps.reward.flatten().numpy())
    early = int(extras.get("outcome_from", "action") != "action")
    losses = M.loss(codebook[tokens], tokens, steps)
    out, _ = M(codebook[tokens], tokens, steps.action, M.initial_state(B), slice(0, -1))
    frame, reward, end = [], [], []
    for b in range(B):
        for t in range(2, T):
            if not steps.mask[b, t]:
                continue
            frame += [-out.next_frame[b, t - 1, k].log_softmax(-1)[tokens[b, t, k]] for k in range(K)]
        for t in range(2 - early, T - early):
            if not steps.mask[b, t]:
                continue
            paid = M.rewards.target(steps.reward[b, t])
            if not paid.is_floating_point():
                paid = torch.eye(out.reward.shape[-1], dtype=torch.float64)[paid]
            reward.append(-out.reward[b, t].log_softmax(-1) @ paid)
            end.append(-out.end[b, t].log_softmax(-1)[int(steps.end[b, t])])
    for name, terms in (("next_frame", frame), ("reward", reward), ("end", end)):
        assert torch.allclose(losses.terms[name], torch.stack(terms).mean(), atol=1e-12), name


@pytest.mark.parametrize(("outcome_from", "blocks"), [("action", T), ("frame", T - 1), ("prediction", T - 1)])
def test_the_loss_absorbs_no_block_that_it_does_not_read(case, outcome_from, blocks):
    codebook, tokens, steps = case
    M, absorbed = world_model(outcome_from=outcome_from), []
    M.register_forward_pre_hook(lambda _, args: absorbed.append(args[1].shape[1]))
    M.loss(codebook[tokens], tokens, steps)
    assert absorbed == [blocks]


@four_ways
def test_a_frame_is_predicted_from_what_is_known_before_it(case, how):
    """With POP nothing of the frame itself counts; token by token, each token is told those before it."""
    codebook, tokens, steps = case
    M = world_model(**how)

    def logits(tokens):
        return M(codebook[tokens], tokens, steps.action, M.initial_state(B), slice(0, -1))[0].next_frame

    other = tokens.clone()
    other[:, 3, 1] = (other[:, 3, 1] + 1) % V
    before, after = logits(tokens), logits(other)
    assert torch.equal(after[:, :2], before[:, :2])
    assert torch.equal(after[:, 2, :2], before[:, 2, :2])
    assert torch.equal(after[:, 2, 2:], before[:, 2, 2:]) == (how["decoding"] == "pop")
    assert not torch.allclose(after[:, 3], before[:, 3])


def test_padding_and_context_are_not_scored(case):
    codebook, tokens, steps = case
    steps.mask[:, 3:] = False
    M = world_model(context=2)
    before = M.loss(codebook[tokens], tokens, steps).figures()
    steps.reward[:, [0, 1, 3, 4]] *= -1
    steps.end[:, [0, 1, 3, 4]] ^= True
    tokens[:, 3:] = (tokens[:, 3:] + 1) % V
    after = M.loss(codebook[tokens], tokens, steps).figures()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_batch_without_anything_to_score_gives_zero(case):
    codebook, tokens, steps = case
    steps.mask[:, 2:] = False
    total = world_model(context=2).loss(codebook[tokens], tokens, steps).total
    assert float(total.detach()) == 0.0


def test_imagination_samples_from_the_predictions(case):
    codebook, tokens, steps = case
    M = world_model(torch.float32).eval()
    codes, action = codebook[tokens[:1, 0]].float(), steps.action[:1, 0]
    n = 4000
    outcome, _, state = M.imagine(
        codes.expand(n, K, D),
        tokens[:1, 0].expand(n, K),
        action.expand(n),
        M.initial_state(n),
        torch.Generator().manual_seed(0),
        embed=lambda z: codebook[z].float(),
    )
    prediction, _ = M(codes[:, None], tokens[:1, :1], action[:, None], M.initial_state(1))
    frequency = torch.stack([(outcome.tokens == v).float().mean(0) for v in range(V)], dim=-1)
    assert (frequency - prediction.next_frame[0, 0].softmax(-1)).abs().max() < 0.04
    signs = torch.stack([(outcome.reward == s).float().mean() for s in (-1, 0, 1)])
    assert (signs - prediction.reward[0, 0].softmax(-1)).abs().max() < 0.04
    assert abs(outcome.end.float().mean() - prediction.end[0, 0].softmax(-1)[1]) < 0.04
    assert state.S.shape[1] == n
    assert not state.S.requires_grad


def test_the_copy_head_adds_one_logit_to_each_token_s_own(case):
    """With the bonus at 50 every token stays; at 0 the logits are those of a model without it."""
    codebook, tokens, steps = case
    M, plain = world_model(copy_head=True), world_model()
    plain.load_state_dict(M.state_dict(), strict=False)
    torch.nn.init.zeros_(M.copy_head.weight)
    torch.nn.init.zeros_(M.copy_head.bias)
    same, _ = M(codebook[tokens], tokens, steps.action, M.initial_state(B))
    without, _ = plain(codebook[tokens], tokens, steps.action, plain.initial_state(B))
    assert torch.equal(same.next_frame, without.next_frame)
    torch.nn.init.constant_(M.copy_head.bias, 50.0)
    for predict in (slice(None), slice(1, -1)):
        kept, _ = M(codebook[tokens], tokens, steps.action, M.initial_state(B), predict)
        assert torch.equal(kept.next_frame.argmax(-1), tokens[:, predict])


def test_logits_from_codes_begin_as_the_others_and_lean_on_what_tokens_look_like(case):
    """Two tokens with one code gain the same, and the codes get no gradient."""
    codebook, tokens, steps = case
    codebook[3] = codebook[2]
    codebook.requires_grad_()
    M = world_model(embed=lambda z: codebook[z], logits_from_codes=True)
    what = codebook.detach()[tokens], tokens, steps.action, M.initial_state(B)
    prediction, _ = M(*what)
    own = M.next_frame.plain(prediction.hidden)
    assert torch.equal(prediction.next_frame, own)
    torch.nn.init.normal_(M.next_frame.code[-1].weight)
    gain = M(*what)[0].next_frame - own
    assert torch.allclose(gain[..., 2], gain[..., 3])
    assert (gain[..., 2] - gain[..., 4]).abs().mean() > 0.1
    gain.square().sum().backward()
    assert M.next_frame.code[-1].weight.grad.abs().sum() > 0
    assert codebook.grad is None


def test_token_temperature_sharpens_frames_and_nothing_else(case):
    """Near zero every frame is the likeliest one; rewards and ends are drawn as before."""
    codebook, tokens, steps = case
    n = 2000
    M = world_model(torch.float32, token_temperature=1e-4).eval()
    codes, action = codebook[tokens[:1, 0]].float(), steps.action[:1, 0]
    outcome, _, _ = M.imagine(
        codes.expand(n, K, D),
        tokens[:1, 0].expand(n, K),
        action.expand(n),
        M.initial_state(n),
        torch.Generator().manual_seed(0),
        embed=lambda z: codebook[z].float(),
    )
    prediction, _ = M(codes[:, None], tokens[:1, :1], action[:, None], M.initial_state(1))
    assert (outcome.tokens == prediction.next_frame[0, 0].argmax(-1)).all()
    signs = torch.stack([(outcome.reward == s).float().mean() for s in (-1, 0, 1)])
    assert (signs - prediction.reward[0, 0].softmax(-1)).abs().max() < 0.05


@four_ways
def test_it_learns_a_deterministic_world(how):
    """Action 0 keeps the frame, the others paint a pattern: after training both are near certain."""
    M = world_model(torch.float32, codes=32, width=32, **how)
    codebook = torch.randn(V, 32)
    pattern = torch.tensor([[0] * K, [1, 2, 3, 4], [5, 6, 7, 8]])
    optimiser = torch.optim.AdamW(M.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    history = []
    for _ in range(200):
        action = torch.randint(A, (16, T), generator=generator)
        tokens = torch.randint(9, (16, 1, K), generator=generator).expand(16, T, K).clone()
        for t in range(1, T):
            keep = (action[:, t - 1] == 0)[:, None]
            tokens[:, t] = torch.where(keep, tokens[:, t - 1], pattern[action[:, t - 1]])
        steps = Steps(
            action=action, reward=action.float() - 1, end=action == 2, mask=torch.ones(16, T, dtype=torch.bool)
        )
        losses = M.loss(codebook[tokens], tokens, steps)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        history.append({name: float(figure) for name, figure in losses.figures().items()})
        now = history[-1]
        if learned := now["next_frame"] < 0.3 and now["accuracy"] > 0.95 and max(now["reward"], now["end"]) < 0.1:
            break
    assert history[0]["next_frame"] > 2.0
    assert learned


def test_a_local_prediction_token_is_told_its_place_s_neighbours_and_the_action(case):
    """The grid is 2 x 2, so all are neighbours: by weights of the centre alone, a place is told of itself alone."""
    codebook, tokens, steps = case
    M, plain = world_model(local_prediction=True), world_model()
    plain.load_state_dict(M.state_dict(), strict=False)
    u = {}
    for model in (M, plain):
        pop = model.backbone.pop

        def listening(x, given, *args, pop=pop, model=model, **kwargs):
            u[model] = given.detach()
            return pop(x, given, *args, **kwargs)

        model.backbone.pop = listening
        model(codebook[tokens], tokens, steps.action, model.initial_state(B), slice(1, -1))
    assert u[plain].shape == (K, D)
    action = M.action_embedding(steps.action[:, 1:-1])
    image = codebook[tokens[:, 1:-1]].flatten(0, 1).mT.reshape(-1, D, 2, 2)
    weights = M.neighbourhood.weight, M.neighbourhood.bias
    around = torch.nn.functional.conv2d(image, *weights, padding=1).flatten(2).mT.unflatten(0, (B, T - 2))
    assert torch.allclose(u[M], u[plain] + around + action, atol=1e-12)


def test_an_outcome_from_the_prediction_is_read_at_the_last_prediction_token(case, monkeypatch):
    codebook, tokens, steps = case
    M = world_model(outcome_from="prediction")
    found = []
    pop = M.backbone.pop
    monkeypatch.setattr(M.backbone, "pop", lambda *args, **how: found.append(pop(*args, **how)) or found[-1])
    out, _ = M(codebook[tokens], tokens, steps.action, M.initial_state(B), slice(1, -1))
    _, y_next, _ = found[0]
    assert torch.equal(out.reward, M.reward(y_next[:, :, -1]))
    assert torch.equal(out.end, M.end(y_next[:, :, -1]))


def test_an_outcome_over_the_frame_is_read_from_the_action_and_all_prediction_tokens(case):
    """Where the action's part of the head is cut, a change of one prediction token still changes the reward."""
    codebook, tokens, steps = case
    M = world_model(outcome_from="frame")
    with torch.no_grad():
        M.reward[0].weight[:, :D] = 0
    before = M(codebook[tokens], tokens, steps.action, M.initial_state(B), slice(1, -1))[0]
    assert before.reward.shape == (B, T - 2, 3)
    assert before.end.shape == (B, T - 2, 2)
    with torch.no_grad():
        M.prediction_tokens[K - 1] += 1
    after = M(codebook[tokens], tokens, steps.action, M.initial_state(B), slice(1, -1))[0]
    assert not torch.allclose(before.reward, after.reward)


def test_an_own_embedding_sees_tokens_and_not_codes(case):
    codebook, tokens, steps = case
    for decoding in ("pop", "token"):
        M = world_model(own_embedding=True, decoding=decoding)
        losses = M.loss(codebook[tokens], tokens, steps)
        assert torch.equal(M.loss(torch.randn_like(codebook)[tokens], tokens, steps).total, losses.total)
        losses.total.backward()
        assert M.token_embedding.weight.grad[tokens.unique()].abs().sum() > 0
        other = (tokens + 1) % V
        assert not torch.equal(M.loss(codebook[other], other, steps).total, losses.total)


def test_one_prediction_token_differs_by_its_place_alone(case):
    codebook, tokens, steps = case
    M, full = world_model(shared_prediction_token=True), world_model()
    assert sum(p.numel() for p in full.parameters()) - sum(p.numel() for p in M.parameters()) == (K - 1) * D
    full.load_state_dict({**M.state_dict(), "prediction_tokens": M.prediction_tokens.expand(K, D)})
    one, same = (m.loss(codebook[tokens], tokens, steps).total for m in (M, full))
    assert torch.equal(one, same)
    out, _ = M(codebook[tokens], tokens, steps.action, M.initial_state(B))
    assert not torch.allclose(out.next_frame[:, :, 0], out.next_frame[:, :, 1])


def test_codes_of_another_width_are_projected_and_those_of_its_own_are_not(case):
    codebook, tokens, steps = case
    same, other = world_model(), world_model(codes=6)
    assert not list(same.projection.parameters())
    loss = other.loss(codebook[tokens][..., :6], tokens, steps)
    loss.total.backward()
    assert other.projection.weight.shape == (D, 6)
    assert other.projection.weight.grad.any()
    assert not hasattr(world_model(codes=6, own_embedding=True).projection, "weight")
    imagined = other.imagine(
        codebook[tokens[:, 0]][..., :6],
        tokens[:, 0],
        steps.action[:, 0],
        other.initial_state(B),
        embed=lambda z: codebook[z][..., :6],
    )
    assert imagined[0].tokens.shape == (B, K)


def test_prediction_tokens_start_with_the_config_s_spread():
    """The published code's 1 in preset rem, 0.02 where presets were tuned with it."""
    for preset, std in ((REM, 1.0), (CPU, 0.02)):
        width = preset.tokenizer.code_width
        codebook = torch.randn(512, width)
        made = WorldModel(preset.world_model, image_block(8, 512, Discrete(18)), width, codebook.__getitem__)
        assert float(made.prediction_tokens.detach().std()) == pytest.approx(std, rel=0.05)
        assert preset.world_model.prediction_token_std == std


def test_a_slot_s_embedding_is_added_to_the_token_that_stands_there(case):
    codebook, tokens, steps = case
    told, untold = world_model(slot_embedding=True), world_model()
    untold.load_state_dict({k: v for k, v in told.state_dict().items() if k != "slot_embedding"})
    entering = [M._blocks(codebook[tokens], tokens, steps.action) for M in (told, untold)]
    assert torch.equal(entering[0], entering[1] + told.slot_embedding)
    assert told.slot_embedding.shape == (K + 1, D)
    assert len(told.slot_embedding.unique(dim=0)) == K + 1
