import pytest
import torch
from blocks import image_block

from tokendream.agent.actor_critic import ActorCritic, PolicyState
from tokendream.agent.agent import Agent
from tokendream.config.parts import ActorCriticConfig, DreamConfig
from tokendream.config.presets import preset
from tokendream.spaces.actions import Discrete

A, GRID, E, M = 5, 4, 16, 12


def controller(dtype=torch.float64, *, grid=GRID, n=A, downsamples=0, **settings):
    config = ActorCriticConfig(**{"lstm_width": M} | settings)
    return ActorCritic(config, image_block(grid, 1, Discrete(n)), E, downsamples).to(dtype)


def test_the_paper_sizes_have_the_published_parameters():
    paper = Agent.from_config(preset("rem"), 18).actor_critic
    assert sum(p.numel() for p in paper.parameters()) == 4_586_707


def test_codes_keep_their_places_in_the_grid():
    """The map that the convolution sees has token k at row k // grid, column k % grid."""
    C = controller()
    codes = torch.randn(2, GRID * GRID, E, dtype=torch.float64)
    image = torch.empty(2, E, GRID, GRID, dtype=torch.float64)
    for k in range(GRID * GRID):
        image[:, :, k // GRID, k % GRID] = codes[:, k]
    x = torch.nn.functional.silu(C.conv_2(torch.nn.functional.silu(C.conv_1(image))))
    assert torch.allclose(C.features(codes), torch.nn.functional.silu(C.dense(x.flatten(1))))


def test_the_trunk_may_have_a_norm():
    C, plain = controller(trunk="norm"), controller()
    plain.load_state_dict({k.replace("dense.0.", "dense."): v for k, v in C.state_dict().items()}, strict=False)
    codes = torch.randn(2, GRID * GRID, E, dtype=torch.float64)
    seen = []
    plain.dense.register_forward_hook(lambda module, inputs, output: seen.append(output))
    plain.features(codes)
    assert torch.allclose(C.features(codes), torch.nn.functional.silu(torch.nn.functional.layer_norm(seen[0], (M,))))


def acted(C, codes, action):
    state = C.initial_state(len(codes))
    for t in range(codes.shape[1]):
        _, state = C(codes[:, t], state)
        state = C.absorb_action(action[:, t], state)
    return state


def test_burn_in_is_acting():
    C = controller()
    codes = torch.randn(3, 6, GRID * GRID, E, dtype=torch.float64)
    action = torch.randint(A, (3, 6))
    state = C.burn_in(codes, action, torch.ones(3, 6, dtype=torch.bool), DreamConfig())
    expected = acted(C, codes, action)
    assert torch.allclose(state.h, expected.h, atol=1e-12)
    assert torch.allclose(state.c, expected.c, atol=1e-12)
    assert not state.h.requires_grad


def test_padding_leaves_no_trace_in_the_memory():
    C = controller()
    codes = torch.randn(2, 6, GRID * GRID, E, dtype=torch.float64)
    action = torch.randint(A, (2, 6))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, :4] = False
    state = C.burn_in(codes, action, mask, DreamConfig())
    assert torch.allclose(state.h[:1], acted(C, codes[:1, 4:], action[:1, 4:]).h, atol=1e-12)
    assert torch.allclose(state.h[1:], acted(C, codes[1:], action[1:]).h, atol=1e-12)


def test_burn_in_hears_actions_unless_told_otherwise():
    C = controller()
    codes = torch.randn(1, 3, GRID * GRID, E, dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    one, other = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 4, 2]])
    told = [C.burn_in(codes, a, mask, DreamConfig()).h for a in (one, other)]
    assert not torch.allclose(*told)
    deaf = [C.burn_in(codes, a, mask, DreamConfig(burn_in_actions=False)).h for a in (one, other)]
    assert torch.equal(*deaf)


def test_a_forgotten_row_acts_like_a_new_one():
    C = controller()
    codes = torch.randn(2, GRID * GRID, E, dtype=torch.float64)
    _, state = C(codes, C.initial_state(2))
    kept = state.keep(torch.tensor([False, True]))
    out, _ = C(codes, kept)
    fresh, _ = C(codes, C.initial_state(2))
    assert torch.equal(out.logits[0], fresh.logits[0])
    assert not torch.allclose(out.logits[1], fresh.logits[1])


def test_bf16_stays_near_float32():
    C = controller(torch.float32)
    codes = torch.randn(4, GRID * GRID, E)
    exact, _ = C(codes, C.initial_state(4))
    with torch.autocast("cpu", torch.bfloat16):
        low, state = C(codes.bfloat16(), C.initial_state(4))
    assert low.logits.dtype == state.c.dtype == torch.float32
    assert (low.logits - exact.logits).norm() / exact.logits.norm() < 0.05


def test_without_action_inputs_nothing_is_heard():
    C = controller(action_inputs=False)
    codes = torch.randn(1, 3, GRID * GRID, E, dtype=torch.float64)
    _, state = C(codes[:, 0], C.initial_state(1))
    assert C.absorb_action(torch.tensor([2]), state) is state
    assert not any("action" in name for name, _ in C.named_parameters())
    mask = torch.ones(1, 3, dtype=torch.bool)
    one, other = (C.burn_in(codes, torch.tensor([a]), mask, DreamConfig()).h for a in ([0, 1, 2], [3, 4, 0]))
    assert torch.equal(one, other)


def test_a_controller_on_pixels_sees_what_the_tokens_decode_to():
    """It acts alike on tokens that decode to the same frame, whatever their codes; and on nothing it was not shown."""
    config = preset("tiny-pixels")
    agent = Agent.from_config(config, A).eval()
    torch.nn.init.normal_(agent.tokenizer.quantizer.codebook)
    tokens = torch.randint(16, (2, config.tokens_per_frame))
    codes = agent.tokenizer.codes(tokens)
    seen = agent.view(tokens, codes)
    assert torch.equal(seen, agent.tokenizer.decode(tokens))
    assert torch.equal(agent.view(tokens, torch.zeros_like(codes)), seen)
    C = agent.actor_critic
    changed = seen.clone()
    changed[1] = torch.randint(256, changed[1].shape, dtype=torch.uint8)
    before, after = (C(view, C.initial_state(2))[0].logits for view in (seen, changed))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-4)


@pytest.mark.parametrize("size", [24, 32, 48, 64])
def test_pixels_reach_the_grid_of_the_tokens(size):
    C = controller(torch.float32, grid=size >> 3, sees="pixels", downsamples=3)
    frame = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    assert C.pixel_encoder(frame.float()).shape == (2, E, size >> 3, size >> 3)
    assert C.features(frame).shape == (2, M)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_is_torch_s_lstm_cell_and_stays_float32(dtype):
    C = controller(torch.float32, lstm_width=16)
    x, state = torch.randn(5, 16), PolicyState(torch.randn(5, 16), torch.randn(5, 16))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        ours, cell = C._remember(x, state), C.lstm(x, (state.h, state.c))
    assert ours.h.dtype == ours.c.dtype == torch.float32
    assert torch.equal(ours.h, cell[0])
    assert torch.equal(ours.c, cell[1])
