"""Actor and critic that share nothing: two controllers in one, wherever C is used."""

import pytest
import torch
from blocks import image_block
from test_actor_critic import GRID, A, E, M, acted
from test_trainer import cut_after, everything, finish, gone_on, same

from tokendream.agent.actor_critic import ActorCritic, PolicyState
from tokendream.agent.separate import SeparateActorCritic
from tokendream.config.config import vary
from tokendream.config.parts import ActorCriticConfig, DreamConfig
from tokendream.config.presets import TINY
from tokendream.spaces.actions import Discrete

B, T = 3, 5
SEPARATE = vary(TINY, "actor_critic", separate=True)


def separate(**settings):
    torch.manual_seed(2)
    config = ActorCriticConfig(**{"lstm_width": M, "separate": True} | settings)
    return SeparateActorCritic(config, image_block(GRID, 1, Discrete(A)), E, 0).double()


@pytest.fixture
def case():
    return torch.randn(B, T, GRID * GRID, E, dtype=torch.float64), torch.randint(A, (B, T))


def half(state: PolicyState, i: int) -> PolicyState:
    return PolicyState(*(x.chunk(2, dim=1)[i] for x in state))


@pytest.mark.parametrize("settings", [{}, {"value_head": "symlog", "trunk": "norm"}, {"action_inputs": False}], ids=str)
def test_policy_and_value_are_those_of_two_controllers(case, settings):
    """Of plain ones, one with each half of the weights, over frames and actions."""
    C, (codes, action) = separate(**settings), case
    plain = [ActorCritic(C.config, image_block(GRID, 1, Discrete(A)), E, 0).double() for _ in range(2)]
    weights = C.state_dict()
    plain[0].load_state_dict({k: v for k, v in weights.items() if not k.startswith("valuing.")}, strict=False)
    plain[1].load_state_dict({k[8:]: v for k, v in weights.items() if k.startswith("valuing.")}, strict=False)
    state, states = C.initial_state(B), [each.initial_state(B) for each in plain]
    for t in range(T):
        output, state = C(codes[:, t], state)
        acting, states[0] = plain[0](codes[:, t], states[0])
        valuing, states[1] = plain[1](codes[:, t], states[1])
        assert torch.allclose(output.logits, acting.logits, atol=1e-12)
        assert torch.allclose(output.value, valuing.value, atol=1e-12)
        assert torch.allclose(output.critic, valuing.critic, atol=1e-12)
        state = C.absorb_action(action[:, t], state)
        states = [each.absorb_action(action[:, t], s) for each, s in zip(plain, states, strict=True)]
        for i in range(2):
            assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(half(state, i), states[i], strict=True))


def test_burn_in_and_along_are_acting(case):
    C, (codes, action) = separate(), case
    warm = C.burn_in(codes, action, torch.ones(B, T, dtype=torch.bool), DreamConfig())
    expected = acted(C, codes, action)
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(warm, expected, strict=True))
    whole, state = C.along(codes, action, C.initial_state(B)), C.initial_state(B)
    for t in range(T):
        output, state = C(codes[:, t], state)
        state = C.absorb_action(action[:, t], state)
        assert torch.allclose(whole.logits[:, t], output.logits, atol=1e-12)
        assert torch.allclose(whole.value[:, t], output.value, atol=1e-12)


def test_along_is_acting_in_bf16(case):
    """As under autocast: there the memory stays float32, and inputs are taken one by one."""
    C, (codes, action) = separate().float(), case
    codes = codes.float()
    with torch.autocast("cpu", torch.bfloat16):
        whole, state = C.along(codes, action, C.initial_state(B)), C.initial_state(B)
        for t in range(T):
            output, state = C(codes[:, t], state)
            state = C.absorb_action(action[:, t], state)
            assert torch.equal(whole.logits[:, t], output.logits)
            assert torch.equal(whole.value[:, t], output.value)


def test_the_gradients_of_value_and_policy_meet_nowhere(case):
    C, (codes, action) = separate(), case
    output = C.along(codes, action, C.initial_state(B))
    names = [name for name, _ in C.named_parameters()]
    for part, of_value in ((output.value, True), (output.logits, False)):
        gradients = torch.autograd.grad(part.square().sum(), C.parameters(), retain_graph=True, allow_unused=True)
        for name, gradient in zip(names, gradients, strict=True):
            assert (gradient is not None and bool(gradient.any())) == (name.startswith("valuing.") == of_value), name


def test_a_run_goes_on_to_the_bit():
    cut = cut_after(73, SEPARATE)
    snapshot = cut.snapshot()
    assert snapshot.tensors["collector"]["h"].shape == (1, 32)
    resumed = gone_on(cut, snapshot)
    assert same(everything(finish(cut)), everything(resumed))
