"""The equations of REM written a second time, in numpy and float64 alone: the numbers of tests/test_parity_numbers.py.

Nothing of tokendream or torch is imported: sums run token by token and pixel by pixel where the package uses fused
forms, so that an error would have to be made twice. `python scripts/parity_numbers.py` writes one file for each part,
tests/parity/*.npz: parameters by the paper's names, inputs, and what must come out.

Sources: REM (arXiv 2402.05643), Retentive Network (arXiv 2307.08621), VQ-VAE (arXiv 1711.00937), LSTM as in PyTorch's
order of gates (input, forget, cell, output).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "tests" / "parity"
EPS = 1e-6

Array = np.ndarray


# ---- building blocks


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def layer_norm(x: Array, scale: Array | float = 1.0, offset: Array | float = 0.0) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS) * scale + offset


def group_norm(x: Array, scale: Array, offset: Array, groups: int = 8) -> Array:
    """x: C H W."""
    parts = x.reshape(groups, -1)
    centred = parts - parts.mean(1, keepdims=True)
    normed = (centred / np.sqrt((centred**2).mean(1, keepdims=True) + EPS)).reshape(x.shape)
    return normed * scale[:, None, None] + offset[:, None, None]


def conv(x: Array, weight: Array, bias: Array, stride: int = 1, pad: tuple[int, int] = (1, 1)) -> Array:
    """x: C H W; weight: M C k k; `pad` before and behind, on both axes. A sum over the kernel's places."""
    x = np.pad(x, ((0, 0), pad, pad))
    k = weight.shape[-1]
    height, width = ((side - k) // stride + 1 for side in x.shape[1:])
    y = np.zeros((len(weight), height, width)) + bias[:, None, None]
    for i in range(k):
        for j in range(k):
            window = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            y += np.tensordot(weight[:, :, i, j], window, 1)
    return y


class Weights:
    """Random parameters by the names that they are asked for; all are numbers of float16, to be small."""

    def __init__(self, seed: int) -> None:
        self.rng, self.kept = np.random.default_rng(seed), {}

    def __call__(self, name: str, *shape: int, scale: float | None = None, mean: float = 0.0) -> Array:
        if name not in self.kept:
            deviation = (1.5 / np.prod(shape[1:])) ** 0.5 if scale is None else scale
            self.kept[name] = self.rng.normal(mean, deviation, shape).astype(np.float16)
        return self.kept[name].astype(np.float64)

    def norm(self, name: str, width: int) -> tuple[Array, Array]:
        return self(f"{name}.weight", width, scale=0.3, mean=1.0), self(f"{name}.bias", width, scale=0.3)

    def linear(self, name: str, out: int, inputs: int, *kernel: int) -> tuple[Array, Array]:
        return self(f"{name}.weight", out, inputs, *kernel), self(f"{name}.bias", out, scale=0.3)

    def saved(self) -> dict[str, Array]:
        return {f"weight.{name}": value for name, value in self.kept.items()}


def apply(x: Array, parameters: tuple[Array, Array]) -> Array:
    weight, bias = parameters
    return x @ weight.T + bias


# ---- V


def tokenizer() -> dict[str, Array]:
    """Encoder, nearest codes, decoder and the loss without LPIPS: 8 channels, two downsamples, 16x16 frames."""
    w, c, E, V = Weights(1), 8, 12, 20
    codebook = w("codebook", V, E, scale=0.7)
    frames = np.random.default_rng(2).integers(0, 256, (3, 3, 16, 16))
    tokens, shown, losses = [], [], np.zeros(3)
    for frame in frames:
        x = frame / 127.5 - 1
        h = conv(x, *w.linear("encoder.first", c, 3, 3, 3))
        for i in range(2):
            n = c << i
            h = silu(group_norm(h, *w.norm(f"encoder.{i}.norm", n)))
            h = conv(h, *w.linear(f"encoder.{i}.stride", 2 * n, n, 3, 3), stride=2, pad=(0, 1))
            h = conv(h, *w.linear(f"encoder.{i}.conv", 2 * n, 2 * n, 3, 3))
        h = silu(group_norm(h, *w.norm("encoder.norm", 4 * c)))
        h = conv(h, *w.linear("encoder.last", 4 * c, 4 * c, 3, 3))
        z = conv(h, *w.linear("pre", E, 4 * c, 1, 1), pad=(0, 0)).reshape(E, -1).T
        nearest = ((z[:, None] - codebook) ** 2).sum(-1).argmin(1)
        codes = codebook[nearest]
        h = conv(codes.T.reshape(E, 4, 4), *w.linear("post", 4 * c, E, 1, 1), pad=(0, 0))
        h = conv(h, *w.linear("decoder.first", 4 * c, 4 * c, 3, 3))
        for i in range(2):
            n = 4 * c >> i
            h = silu(group_norm(h, *w.norm(f"decoder.{i}.norm", n))).repeat(2, 1).repeat(2, 2)
            h = conv(h, *w.linear(f"decoder.{i}.widen", n // 2, n, 3, 3))
            h = conv(h, *w.linear(f"decoder.{i}.conv", n // 2, n // 2, 3, 3))
        h = silu(group_norm(h, *w.norm("decoder.norm", c)))
        seen = conv(h, *w.linear("decoder.last", 3, c, 3, 3))
        tokens.append(nearest)
        shown.append(seen)
        distance = ((z - codes) ** 2).mean()
        losses += np.array([((seen - x) ** 2).mean(), distance, distance]) / len(frames)
    return {**w.saved(), "in.frames": frames.astype(np.uint8), "out.tokens": np.array(tokens),
            "out.decoded": np.array(shown), "out.losses": losses}  # fmt: skip


# ---- M


def world_model() -> dict[str, Array]:
    """POP and the loss: K = 4, T = 4 blocks, two layers, width 16, two heads, 11 codes, 3 actions, context 2.

    Retention is its recurrence, one token after the other; a frame is predicted by running the K prediction tokens
    through the same recurrence from a copy of the state after the block before it.
    """
    w, K, T, B, D, H, N, V, A, context = Weights(3), 4, 4, 2, 16, 2, 2, 11, 3, 2
    d, rng = D // H, np.random.default_rng(4)
    decay = 1 - np.exp(np.linspace(np.log(1 / 32), np.log(1 / 512), H))
    angle = 10000.0 ** -np.linspace(0, 1, d // 2)
    codebook, u = w("codebook", V, D, scale=1.0), w("prediction_tokens", K, D, scale=1.0)
    embedding = w("action_embedding", A, D, scale=1.0)
    tokens, action = rng.integers(V, size=(B, T, K)), rng.integers(A, size=(B, T))
    reward, end = rng.integers(-2, 3, (B, T)).astype(float), rng.random((B, T)) < 0.3
    mask = np.ones((B, T), bool)
    mask[1, -1] = False

    def rotate(x: Array, n: int) -> Array:
        """Pairs (x_0, x_1), (x_2, x_3), ... of every head turned by n θ."""
        pairs = x.reshape(H, d // 2, 2)
        cos, sin = np.cos(n * angle), np.sin(n * angle)
        turned = (pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 0] * sin + pairs[..., 1] * cos)
        return np.stack(turned, -1).reshape(H, d)

    def token(x: Array, n: int, S: list[Array]) -> tuple[Array, list[Array]]:
        """One token at position n through all layers, from the states S of their heads."""
        after = []
        for i in range(N):
            name, h = f"layer{i}", layer_norm(x, *w.norm(f"layer{i}.norm_retention", D))
            q, k, v = (apply(h, w.linear(f"{name}.{part}", D, D)).reshape(H, d) for part in "qkv")
            gate = apply(h, w.linear(f"{name}.gate", D, D))
            q, k = rotate(q, n), rotate(k, n) * d**-0.5
            state = decay[:, None, None] * S[i] + k[:, :, None] * v[:, None, :]
            after.append(state)
            y = np.einsum("hd,hde->he", q, state)
            x = x + apply(silu(gate) * layer_norm(y).reshape(D), w.linear(f"{name}.out", D, D))
            h = layer_norm(x, *w.norm(f"{name}.norm_ffn", D))
            h = silu(apply(h, w.linear(f"{name}.ffn_in", 4 * D, D)))
            x = x + apply(h, w.linear(f"{name}.ffn_out", D, 4 * D))
        return x, after

    def head(name: str, y: Array, out: int) -> Array:
        return apply(np.maximum(apply(y, w.linear(f"{name}.0", D, D)), 0), w.linear(f"{name}.1", out, D))

    next_frame, of_reward, of_end = np.zeros((B, T, K, V)), np.zeros((B, T, 3)), np.zeros((B, T, 2))
    for b in range(B):
        S, n = [np.zeros((H, d, d)) for _ in range(N)], 0
        for t in range(T):
            for x in [*codebook[tokens[b, t]], embedding[action[b, t]]]:
                y, S = token(x, n, S)
                n += 1
            of_reward[b, t], of_end[b, t] = head("reward", y, 3), head("end", y, 2)
            apart = S
            for j in range(K):
                y, apart = token(u[j], n + j, apart)
                next_frame[b, t, j] = head("next_frame", y, V)

    scored = [(b, t) for b in range(B) for t in range(context, T) if mask[b, t]]
    frame_loss = -np.mean([log_softmax(next_frame[b, t - 1, j])[tokens[b, t, j]] for b, t in scored for j in range(K)])
    reward_loss = -np.mean([log_softmax(of_reward[b, t])[int(np.sign(reward[b, t])) + 1] for b, t in scored])
    end_loss = -np.mean([log_softmax(of_end[b, t])[int(end[b, t])] for b, t in scored])
    return {**w.saved(), "in.tokens": tokens, "in.action": action, "in.reward": reward,
            "in.end": end, "in.mask": mask, "out.next_frame": next_frame, "out.reward": of_reward, "out.end": of_end,
            "out.losses": np.array([frame_loss, reward_loss, end_loss])}  # fmt: skip


# ---- C and what a dream teaches


def controller() -> dict[str, Array]:
    """T steps of frame, action, frame, action...; then λ-returns and the three losses of a rollout with an end."""
    w, B, T, E, M, A, grid = Weights(5), 2, 5, 8, 10, 4, 2
    rng = np.random.default_rng(6)
    codes, action = rng.normal(size=(B, T, grid * grid, E)), rng.integers(A, size=(B, T))
    embedding = w("action_embedding", A, M, scale=1.0)

    def lstm(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gates = apply(x, (w("lstm.weight_ih", 4 * M, M), w("lstm.bias_ih", 4 * M, scale=0.3)))
        gates = gates + apply(h, (w("lstm.weight_hh", 4 * M, M), w("lstm.bias_hh", 4 * M, scale=0.3)))
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    logits, value = np.zeros((B, T, A)), np.zeros((B, T))
    for b in range(B):
        h, c = np.zeros(M), np.zeros(M)
        for t in range(T):
            x = codes[b, t].T.reshape(E, grid, grid)
            x = silu(conv(x, *w.linear("conv_1", E // 2, E, 3, 3)))
            x = silu(conv(x, *w.linear("conv_2", E // 4, E // 2, 3, 3)))
            x = silu(apply(x.reshape(-1), w.linear("dense", M, E // 4 * grid * grid)))
            h, c = lstm(x, h, c)
            logits[b, t] = apply(h, w.linear("actor", A, M))
            value[b, t] = apply(h, w.linear("critic", 1, M))[0]
            h, c = lstm(embedding[action[b, t]], h, c)

    discount, lam, entropy_weight = 0.97, 0.9, 0.01
    rewards, ends = rng.integers(-1, 2, (B, T)).astype(float), np.zeros((B, T), bool)
    ends[0, 2] = True
    returns = np.zeros((B, T - 1))
    for b in range(B):
        G = value[b, -1]
        for t in reversed(range(T - 1)):
            ahead = (1 - lam) * value[b, t + 1] + lam * G
            G = returns[b, t] = rewards[b, t] + discount * (1 - ends[b, t]) * ahead
    log_pi = log_softmax(logits[:, :-1])
    chosen = np.take_along_axis(log_pi, action[:, :-1, None], -1)[..., 0]
    policy = -(chosen * (returns - value[:, :-1])).mean()
    critic = ((value[:, :-1] - returns) ** 2).mean()
    entropy = -entropy_weight * -(np.exp(log_pi) * log_pi).sum(-1).mean()
    return {**w.saved(), "in.codes": codes, "in.action": action, "in.rewards": rewards, "in.ends": ends,
            "in.settings": np.array([discount, lam, entropy_weight]), "out.logits": logits, "out.value": value,
            "out.returns": returns, "out.losses": np.array([policy, critic, entropy])}  # fmt: skip


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for part in (tokenizer, world_model, controller):
        path = OUT / f"{part.__name__}.npz"
        np.savez_compressed(path, **part())
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
