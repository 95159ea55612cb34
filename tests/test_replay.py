"""The replay buffer's promises, checked on frames that carry their own row number."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokendream.data.replay import ReplayBuffer

SHAPE = (3, 2, 2)


def counter(row: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A frame that holds 1 + its row number in base 256, so that no real frame is black."""
    frame = np.zeros(shape, np.uint8)
    frame.reshape(-1)[:4] = np.frombuffer(np.uint32(row + 1).tobytes(), np.uint8)
    return frame


def numbers(frame: torch.Tensor) -> np.ndarray:
    """The row numbers of counter frames; -1 for a black one."""
    digits = frame.flatten(-3)[..., :4].numpy().astype(np.int64)
    return digits @ (256 ** np.arange(4)) - 1


def fill(replay: ReplayBuffer, lengths: list[int], *, closed: bool = True) -> ReplayBuffer:
    """Add whole episodes; the last one stays open unless `closed`."""
    for e, length in enumerate(lengths):
        for i in range(length):
            row, last = replay.total, i == length - 1 and (closed or e < len(lengths) - 1)
            replay.add(counter(row), row % 7, float(row), last and e % 2 == 0, last)
    return replay


def drawn(replay: ReplayBuffer, n: int, length: int, align: str, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Frames and steps of random segments."""
    segments = replay.draw(n, length, align=align, rng=rng)
    return {"frame": replay.frames(segments.row), **replay.steps(segments)._asdict()}


def bounds(lengths: list[int]) -> dict[int, tuple[int, int]]:
    """The episode [start, stop) of every row."""
    edges = [0, *itertools.accumulate(lengths)]
    return {row: (a, b) for a, b in itertools.pairwise(edges) for row in range(a, b)}


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    closed=st.booleans(),
    capacity=st.integers(1, 40),
    length=st.integers(1, 12),
    align=st.sampled_from(["start", "end"]),
    seed=st.integers(0, 2**32),
)
def test_segments_are_what_their_definition_says(lengths, closed, capacity, length, align, seed):
    replay = fill(ReplayBuffer(capacity, SHAPE), lengths, closed=closed)
    total, oldest = sum(lengths), max(0, sum(lengths) - capacity)
    assert (replay.total, len(replay), replay.oldest) == (total, total - oldest, oldest)
    episode = bounds(lengths)
    segments = replay.draw(16, length, align=align, rng=np.random.default_rng(seed))
    steps, frame = replay.steps(segments), replay.frames(segments.row)
    assert frame.shape == (16, length, *SHAPE)
    for b in range(16):
        anchor = segments.row[b, 0 if align == "start" else -1]
        first, stop = episode[anchor]
        expected = range(anchor, min(anchor + length, stop))
        if align == "end":
            expected = range(max(anchor - length + 1, first, oldest), anchor + 1)
        padding = length - len(expected)
        here = slice(0, len(expected)) if align == "start" else slice(padding, length)
        mask = np.zeros(length, bool)
        mask[here] = True
        np.testing.assert_array_equal(segments.mask[b], mask)
        np.testing.assert_array_equal(segments.row[b, mask], expected)
        assert (segments.row[b, ~mask] == anchor).all()
        np.testing.assert_array_equal(steps.mask[b], mask)
        np.testing.assert_array_equal(numbers(frame[b]), segments.row[b])
        np.testing.assert_array_equal(steps.action[b, mask], [r % 7 for r in expected])
        np.testing.assert_array_equal(steps.reward[b, mask], [float(r) for r in expected])
        assert not steps.action[b, ~mask].any()
        assert not steps.reward[b, ~mask].any()
        assert not steps.end[b, ~mask].any()


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    closed=st.booleans(),
    capacity=st.integers(1, 40),
    more=st.lists(st.integers(1, 9), max_size=4),
    data=st.data(),
)
def test_restored_buffers_go_on_as_the_original_would(lengths, closed, capacity, more, data):
    replay = fill(ReplayBuffer(capacity, SHAPE), lengths, closed=closed)
    cuts = data.draw(st.lists(st.integers(replay.oldest, replay.total), max_size=4).map(sorted))
    copy = ReplayBuffer(capacity, SHAPE)
    for start, stop in itertools.pairwise([replay.oldest, *cuts, replay.total]):
        copy.restore(replay.export(start, stop), start)
    for each in (replay, copy):
        fill(each, more)
    assert (copy.total, len(copy), copy.episodes()) == (replay.total, len(replay), replay.episodes())
    for align in ("start", "end"):
        a, b = (drawn(r, 8, 5, align, np.random.default_rng(1)) for r in (replay, copy))
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_episodes_are_listed_with_what_is_held_of_them():
    replay = ReplayBuffer(10, SHAPE)
    assert replay.episodes() == []
    fill(replay, [4, 1, 3], closed=False)
    assert replay.episodes() == [range(4), range(4, 5), range(5, 8)]
    fill(replay, [2, 2])  # goes on with the open episode, then overwrites two rows
    assert replay.episodes() == [range(2, 4), range(4, 5), range(5, 10), range(10, 12)]


@pytest.mark.parametrize("align", ["start", "end"])
def test_anchors_are_uniform_over_all_rows(align, rng):
    replay = fill(ReplayBuffer(50, SHAPE), [1, 2, 30, 1, 1, 25, 7])
    row = replay.draw(50_000, 6, align=align, rng=rng).row[:, 0 if align == "start" else -1]
    count = np.bincount(row - replay.oldest, minlength=50)
    chi2 = ((count - 1000) ** 2 / 1000).sum()
    assert len(count) == 50
    assert 49 - 4 * 98**0.5 < chi2 < 49 + 5 * 98**0.5  # mean k-1, variance 2(k-1)


def test_frames_are_looked_up_by_row_in_any_shape():
    replay = fill(ReplayBuffer(8, SHAPE), [5, 5, 3])
    rows = np.array([[5, 12], [9, 5], [8, 8]])
    np.testing.assert_array_equal(numbers(replay.frames(rows)), rows)
    for bad in (4, 13, -1):
        with pytest.raises(ValueError, match="rows 5 to 12 are held"):
            replay.frames(np.array([7, bad]))
    with pytest.raises(ValueError, match="are held"):
        replay.export(4, 8)


def test_samples_do_not_change_when_the_buffer_does(rng):
    replay = fill(ReplayBuffer(8, SHAPE), [8])
    batch = drawn(replay, 4, 3, "start", rng)
    before = {name: tensor.clone() for name, tensor in batch.items()}
    fill(replay, [8])
    assert all(torch.equal(batch[name], before[name]) for name in batch)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_row_costs_its_frame_and_16_bytes_and_nothing_before_it_is_filled():
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    replay = ReplayBuffer(100_000)
    assert resident() - before < 30e6
    held = replay._frame.nbytes + sum(c.nbytes for c in replay._column.values())
    assert held == 100_000 * (3 * 64 * 64 + 16) <= 1.4e9
    frame = np.full((3, 64, 64), 7, np.uint8)
    for _ in range(1000):
        replay.add(frame, 0, 0.0, False, False)
    assert resident() - before < 45e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": np.zeros((3, 2, 3), np.uint8)}, r"frame must be uint8 \(3, 2, 2\)"),
        ({"frame": np.zeros(SHAPE, np.float32)}, "not float32"),
        ({"reward": float("nan")}, "finite"),
        ({"action": -1}, "action must be in"),
        ({"action": 2**15}, "action must be in"),
    ],
)
def test_steps_that_no_environment_should_return_are_refused(change, message):
    replay = ReplayBuffer(4, SHAPE)
    step = {"frame": counter(0), "action": 0, "reward": 0.0, "end": False, "last": False, **change}
    with pytest.raises(ValueError, match=message):
        replay.add(**step)
    assert replay.total == 0


def test_misuse_is_named(rng):
    with pytest.raises(AssertionError, match="at least 1"):
        ReplayBuffer(0)
    with pytest.raises(ValueError, match="empty replay"):
        ReplayBuffer(3).draw(1, 1, align="start", rng=rng)
    replay = fill(ReplayBuffer(8, SHAPE), [5])
    with pytest.raises(ValueError, match="next row of the replay buffer is 5, not 3"):
        replay.restore(replay.export(3, 5), 3)


@pytest.mark.parametrize(
    "change",
    [
        {"frame": np.zeros((5, 3, 2, 3), np.uint8)},
        {"frame": np.zeros((5, *SHAPE), np.int64)},
        {"frame": np.zeros((), np.uint8)},
        {"reward": np.zeros(4, np.float32)},
        {"reward": np.full(5, np.inf, np.float32)},
        {"action": np.full(5, -3, np.int16)},
        {"last": np.zeros(5, bool)},
        {"episode_start": np.array([3, 3, 3, 3, 3])},
        {"episode_start": np.array([0, 0, 2, 3, 3])},
        {"episode_start": np.array([-1, -1, -1, 3, 3])},
        {"extra": np.zeros(5)},
    ],
)
def test_arrays_that_no_export_made_are_refused(change):
    good = fill(ReplayBuffer(8, SHAPE), [3, 2]).export(0, 5)
    replay = ReplayBuffer(8, SHAPE)
    with pytest.raises(ValueError, match="replay rows"):
        replay.restore({**good, **change}, 0)
    assert replay.total == 0
    replay.restore(good, 0)


@pytest.mark.parametrize("lengths", [[5, 3], [7], [4, 9]])
def test_an_episode_that_is_closed_is_one_that_was_truncated(lengths):
    closed = fill(ReplayBuffer(8, SHAPE), lengths, closed=False)
    closed.close_episode()
    assert fill(closed, [2]).episodes() == fill(ReplayBuffer(8, SHAPE), [*lengths, 2]).episodes()
    assert closed.closed == 1
    closed.close_episode()  # of an episode that is over already there is nothing to close
    assert closed.closed == 1
    empty = ReplayBuffer(8, SHAPE)
    empty.close_episode()
    assert empty.closed == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and GPU_TESTS=1")
def test_a_buffer_on_the_gpu_gives_the_same_samples():
    host, device = (fill(ReplayBuffer(20, SHAPE, torch.device(d)), [9, 4, 12]) for d in ("cpu", "cuda"))
    copy = ReplayBuffer(20, SHAPE, torch.device("cuda"))
    copy.restore(device.export(5, 25), 5)
    for align in ("start", "end"):
        a, b, c = (drawn(r, 16, 6, align, np.random.default_rng(3)) for r in (host, device, copy))
        for name in a:
            assert b[name].is_cuda
            assert torch.equal(a[name], b[name].cpu())
            assert torch.equal(a[name], c[name].cpu())


def test_anchors_with_context_lie_where_the_episode_has_it():
    replay = fill(ReplayBuffer(40, SHAPE), [5, 1, 2, 4], closed=False)
    assert replay.anchors(0, 0).tolist() == list(range(12))
    # From the third row of an episode on; of two rows the second; of one row none. The open episode counts too.
    assert replay.anchors(2, 0).tolist() == [2, 3, 4, 7, 10, 11]
    # Not in the last two rows of an episode, where a segment would have no block behind its two of context.
    assert replay.anchors(0, 2).tolist() == [0, 1, 2, 8, 9]


def test_where_no_row_has_context_all_are_anchors():
    replay = fill(ReplayBuffer(40, SHAPE), [1, 1, 1])
    assert replay.anchors(2, 0).tolist() == replay.anchors(0, 2).tolist() == [0, 1, 2]


def test_an_episode_whose_head_is_overwritten_begins_where_it_is_held():
    replay = fill(ReplayBuffer(6, SHAPE), [8, 3])
    assert replay.oldest == 5
    assert replay.anchors(2, 0).tolist() == [7, 10]


def test_draws_from_a_buffer_that_remembers_its_anchors_are_those_of_a_fresh_one():
    """While rows are added, episodes closed and heads overwritten."""
    replay = fill(ReplayBuffer(12, SHAPE), [3])
    for i in range(30):
        if i % 11 == 10:
            replay.close_episode()
        elif i % 3:
            replay.add(counter(replay.total), 0, 0.0, False, i % 5 == 4)
        fresh = ReplayBuffer(12, SHAPE)
        fresh.restore(replay.export(replay.oldest, replay.total), replay.oldest)
        for sides in ({"before": 2}, {"after": 2}, {"before": 1, "after": 1}):
            a, b = (r.draw(8, 4, align="start", rng=np.random.default_rng(i), **sides) for r in (replay, fresh))
            assert np.array_equal(a.row, b.row)
            assert np.array_equal(a.mask, b.mask)


@pytest.mark.parametrize("side", [{"before": 2}, {"after": 2}])
def test_draws_are_uniform_over_the_anchors_with_context(side, rng):
    replay = fill(ReplayBuffer(40, SHAPE), [9, 2, 1, 6])
    segments = replay.draw(30_000, 4, align="start", rng=rng, **side)
    rows, counts = np.unique(segments.row[:, 0], return_counts=True)
    assert rows.tolist() == replay.anchors(**{"before": 0, "after": 0, **side}).tolist()
    assert abs(counts / 30_000 - 1 / len(rows)).max() < 0.01


@pytest.mark.parametrize("side", [{}, {"before": 2}, {"after": 2}])
def test_a_share_is_drawn_from_the_newest_rows_alone(side, rng):
    """Of 40 rows the last 12: an episode's last three, and one of nine."""
    replay = fill(ReplayBuffer(40, SHAPE), [9, 22, 9])
    anchor = replay.draw(30_000, 4, align="start", rng=rng, newest=(20_000, 12), **side).row[:, 0]
    may = replay.anchors(**{"before": 0, "after": 0, **side})
    for part, rows in ((anchor[:10_000], may), (anchor[10_000:], may[may >= 28])):
        found, counts = np.unique(part, return_counts=True)
        assert found.tolist() == rows.tolist()
        assert abs(counts / len(part) - 1 / len(rows)).max() < 0.015
    alone = fill(ReplayBuffer(40, SHAPE), [9, 1])
    assert alone.draw(5, 1, align="start", rng=rng, before=3, newest=(5, 1)).row[:, 0].tolist() == [8] * 5
