import math

import pytest
import torch
from blocks import image_block

from tokendream.agent.backbones import make_backbone
from tokendream.config.parts import WorldModelConfig
from tokendream.nn.post_norm import PostNormLayer
from tokendream.nn.rotary import rotate, rotation
from tokendream.nn.transformer import Transformer, TransformerLayer
from tokendream.spaces.actions import Discrete

B, L, D, HEADS = 2, 9, 32, 4
K, K1, d = 6, 7, D // HEADS


@pytest.fixture
def model():
    torch.manual_seed(3)
    return Transformer(D, 2, HEADS, 4, 0.0).double().eval()


def test_a_layer_has_twelve_squares_of_the_width():
    assert sum(p.numel() for p in Transformer(256, 1, 4, 4, 0.0).parameters()) == 12 * 256**2 + 13 * 256


def test_attention_is_the_definition():
    """softmax(q kᵀ / √d) v over what came before, q and k rotated by their positions."""
    torch.manual_seed(1)
    model = Transformer(D, 1, HEADS, 4, 0.0).double()
    layer = model.layers[0]
    x = torch.randn(B, L, D, dtype=torch.float64)
    q, k, v = (y.unflatten(2, (HEADS, d)).transpose(1, 2) for y in layer.qkv(layer.norm_attention(x)).chunk(3, dim=2))
    table = rotation(torch.arange(L), d)
    q, k = rotate(q, table), rotate(k, table)
    y = torch.zeros(B, HEADS, L, d, dtype=torch.float64)
    for n in range(L):
        weight = (k[:, :, : n + 1] @ q[:, :, n, :, None] / math.sqrt(d)).softmax(2)
        y[:, :, n] = (weight * v[:, :, : n + 1]).sum(2)
    z = x + layer.out(y.transpose(1, 2).flatten(2))
    z = z + layer.ffn_out(torch.nn.functional.gelu(layer.ffn_in(layer.norm_ffn(z))))
    assert torch.allclose(model(x), z, atol=1e-12)


def test_a_dream_is_written_into_one_cache_and_grows_by_a_block_a_step(model):
    u = torch.randn(K, D, dtype=torch.float64)
    caches = []
    with torch.no_grad():
        state = model.initial_state(B)
        for t in range(9):
            _, _, state = model.pop(torch.randn(B, 1, K1, D, dtype=torch.float64), u, state)
            assert state.length == state.cache.filled == (t + 1) * K1
            caches.append(state.cache)
    assert len(set(map(id, caches))) <= 4  # room is doubled, not added for each block
    assert caches[-1].keys[0].shape[2] <= 2 * 9 * K1 + 4 * K


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
def test_low_precision_stays_near_float64_over_650_tokens_and_5_layers(dtype, bound):
    width, blocks, k = 128, 10, 64
    torch.manual_seed(0)
    exact = Transformer(width, 5, HEADS, 4, 0.0).double().eval()
    x, u = torch.randn(1, blocks, k + 1, width), torch.randn(k, width)
    with torch.no_grad():
        y64, next64, _ = exact.pop(x.double(), u.double(), exact.initial_state(1))
        low = Transformer(width, 5, HEADS, 4, 0.0).eval()
        low.load_state_dict(exact.state_dict())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            y, y_next, _ = low.pop(x.to(dtype), u.to(dtype), low.initial_state(1))
    for ours, reference in ((y, y64), (y_next, next64)):
        assert float((ours.double() - reference).norm() / reference.norm()) < bound


def test_a_config_s_backbone_has_layers_of_that_name():
    for name, layer in {"transformer": TransformerLayer, "post-norm": PostNormLayer}.items():
        config = WorldModelConfig(width=D, heads=HEADS, layers=2, backbone=name)
        net = make_backbone(config, image_block(2, 9, Discrete(2)))
        assert {type(each) for each in net.layers} == {layer}, name


def test_a_post_norm_layer_is_its_definition():
    """Norms stand behind the branches, so what leaves a layer is normed; q, k, v and out have no bias."""
    torch.manual_seed(1)
    layer = PostNormLayer(D, HEADS, 4, 0.0).double()
    assert {n for n, _ in layer.named_parameters() if n.endswith("bias")} == {
        "norm_attention.bias", "norm_ffn.bias", "ffn_in.bias", "ffn_out.bias"
    }  # fmt: skip
    x, y = torch.randn(2, B, L, D, dtype=torch.float64)
    seen = {}

    def attend(q, k, v):
        seen.update(q=q, k=k, v=v)
        return y.unflatten(2, (HEADS, d)).transpose(1, 2)

    z = layer(x, attend)
    parts = torch.cat([seen[name].transpose(1, 2).flatten(2) for name in "qkv"], dim=2)
    assert torch.allclose(parts, x @ layer.qkv.weight.T)
    first = layer.norm_attention(x + y @ layer.out.weight.T)
    ffn = layer.ffn_out(torch.nn.functional.gelu(layer.ffn_in(first)))
    assert torch.allclose(z, layer.norm_ffn(first + ffn))
    assert torch.allclose(z.mean(-1), torch.zeros(B, L).double(), atol=1e-12)
