"""The codebook: nearest codes at any scale and precision, straight-through gradients, revival."""

import pytest
import torch

from tokendream.tokenizers.quantizer import FiniteScalar, Quantizer, orthonormal, straight_through


def test_codebook_starts_uniform_within_one_over_V() -> None:
    codebook = Quantizer(64, 32).codebook.detach()
    assert codebook.abs().max() <= 1 / 64
    assert codebook.std().item() == pytest.approx(1 / 64 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_a_codebook_vector_is_its_own_code(scale: float) -> None:
    quantizer = Quantizer(512, 256)
    with torch.no_grad():
        quantizer.codebook.mul_(scale)
    tokens = quantizer.nearest(quantizer.codebook.detach())
    assert tokens.tolist() == list(range(512))
    assert torch.equal(quantizer.lookup(tokens), quantizer.codebook)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nearest_is_the_definition_also_under_autocast(dtype: torch.dtype) -> None:
    """z is a thousand times longer than the codes, as when training starts; bf16 products would take other codes."""
    quantizer = Quantizer(512, 64)
    z = torch.randn(3, 50, 64, dtype=dtype)
    distance = (z.double()[:, :, None] - quantizer.codebook.double()).square().sum(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = quantizer.nearest(z)
    assert torch.equal(tokens, distance.argmin(-1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        careless = (quantizer.codebook.square().sum(-1) - 2 * z @ quantizer.codebook.mT).argmin(-1)
    assert not torch.equal(careless, tokens)


def test_a_tie_takes_the_lowest_code() -> None:
    quantizer = Quantizer(4, 2)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]))
    assert quantizer.nearest(torch.tensor([[0.7, 0.1], [4.0, 4.0]])).tolist() == [1, 0]
    assert quantizer.nearest(torch.tensor([0.0, 0.0])).item() == 1


def test_straight_through_is_the_code_to_the_bit_and_passes_the_gradient() -> None:
    z = torch.randn(5, 8, requires_grad=True)
    codes = torch.randn(5, 8, requires_grad=True)
    leaf = codes.detach().clone().requires_grad_()
    out = straight_through(z, codes)
    assert torch.equal(out, codes)
    (out**3).sum().backward()
    (leaf**3).sum().backward()
    assert torch.equal(z.grad, leaf.grad)
    assert codes.grad is None


def test_codes_move_the_codebook_rows_they_came_from_and_no_other() -> None:
    quantizer = Quantizer(16, 4)
    z = torch.randn(6, 4, requires_grad=True)
    tokens = quantizer.nearest(z)
    (quantizer.lookup(tokens) - z.detach()).square().sum().backward()
    touched = quantizer.codebook.grad.abs().sum(-1) > 0
    assert set(touched.nonzero().flatten().tolist()) == set(tokens.tolist())
    assert z.grad is None


def revivable(patience: int) -> Quantizer:
    quantizer = Quantizer(64, 4, revive_after=patience)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.arange(64.0)[:, None] + 100)
        quantizer.codebook[0] = 0
        quantizer.codebook[1] = 3
    return quantizer


def test_only_codes_unused_for_patience_updates_move_and_only_to_rows_of_the_batch() -> None:
    quantizer = revivable(patience=3)
    z = torch.tensor([[0.1, 0, 0, 0], [3, 3, 3, 3.2], [1, 1, 1, 1.3], [0, -1, 0, 0]])
    before = quantizer.codebook.detach().clone()
    for _ in range(2):
        assert quantizer.revive(z, quantizer.nearest(z)).item() == 0
    assert torch.equal(quantizer.codebook, before)
    assert quantizer.revive(z, quantizer.nearest(z)).item() == 2  # V/32 a time
    changed = (quantizer.codebook != before).any(-1).nonzero().flatten().tolist()
    assert len(changed) == 2
    assert not {0, 1} & set(changed)  # both were in use
    rows = {tuple(row) for row in z.tolist()}
    assert len({tuple(quantizer.codebook[i].tolist()) for i in changed} & rows) == 2  # two rows, not one twice


def test_a_rare_code_survives() -> None:
    quantizer = revivable(patience=5)
    common, rare = torch.zeros(1, 4), torch.full((1, 4), 3.0)
    for update in range(30):
        z = rare if update % 4 == 0 else common
        quantizer.revive(z, quantizer.nearest(z))
    assert torch.equal(quantizer.codebook[1], rare[0])


def test_revival_favours_what_is_coded_badly() -> None:
    near, far = torch.full((99, 4), 1e-3), torch.full((1, 4), -2.0)
    z = torch.cat((near, far))
    hits = 0
    for seed in range(20):
        quantizer = revivable(patience=1)
        quantizer.revive(z, quantizer.nearest(z), generator=torch.Generator().manual_seed(seed))
        hits += int((quantizer.codebook == far[0]).all(-1).any())
    assert hits == 20


def test_revival_is_a_function_of_inputs_and_generator_and_its_count_is_state() -> None:
    z = torch.randn(32, 4)
    books = []
    for _ in range(2):
        quantizer = revivable(patience=2)
        generator = torch.Generator().manual_seed(1)
        quantizer.revive(z, quantizer.nearest(z), generator=generator)
        fresh = revivable(patience=2)
        fresh.load_state_dict(quantizer.state_dict())
        fresh.revive(z, fresh.nearest(z), generator=generator)
        books.append(fresh.codebook.detach().clone())
    assert torch.equal(*books)
    assert "idle" not in Quantizer(8, 4).state_dict()


@pytest.mark.parametrize(
    ("V", "levels"), [(2, [2]), (16, [4, 4]), (32, [4, 8]), (512, [8, 8, 8]), (1024, [4, 4, 8, 8])]
)
def test_a_grid_has_V_points_each_its_own_nearest(V: int, levels: list[int]) -> None:
    grid = FiniteScalar(V, 16)
    tokens = torch.arange(V)
    assert grid.levels.tolist() == levels
    points = grid.lookup(tokens)
    assert (points.min().item(), points.max().item()) == (-1, 1)
    assert torch.equal(grid.nearest(points), tokens)
    assert len(points.unique(dim=0)) == len(grid.codes(tokens).unique(dim=0)) == V


def test_the_nearest_point_of_a_grid_is_the_definition() -> None:
    grid = FiniteScalar(512, 16)
    z = grid.bounded(3 * torch.randn(2, 50, 3))
    assert z.abs().max() <= 1
    tokens = grid.nearest(z)
    assert torch.equal(tokens, torch.cdist(z.double(), grid.grid.double()).argmin(-1))
    assert torch.equal(grid.lookup(tokens), grid.grid[tokens])


def test_levels_that_are_shared_make_codes_alike() -> None:
    """Two tokens of N values and s in common are sqrt(2 (N - s) E / N) apart; a code has unit variance."""
    grid = FiniteScalar(512, 128)
    codes = grid.codes(torch.tensor([0, 1, 7, 8, 511]))
    unit = (2 * 128 / 3) ** 0.5
    apart = torch.cdist(codes[:1], codes[1:])[0]
    torch.testing.assert_close(apart, unit * torch.tensor([1.0, 1.0, 1.0, 3.0**0.5]))
    torch.testing.assert_close(codes.square().mean(-1), torch.ones(5))


@pytest.mark.parametrize(("wide", "narrow"), [(12, 5), (5, 12), (4, 4)])
def test_a_fixed_projection_is_orthonormal_and_always_the_same(wide: int, narrow: int) -> None:
    matrix = orthonormal(wide, narrow)
    product = matrix @ matrix.mT if wide < narrow else matrix.mT @ matrix
    torch.testing.assert_close(product, torch.eye(min(wide, narrow)), atol=1e-5, rtol=0)
    torch.manual_seed(5)
    assert torch.equal(orthonormal(wide, narrow), matrix)
