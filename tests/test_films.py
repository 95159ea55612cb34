import io
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from tokendream.reports import media


def read(path):
    """Frames of a film as ffmpeg gives them back."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    probe = subprocess.run([ffmpeg, "-i", str(path)], capture_output=True, text=True, check=False).stderr
    width, height = map(int, re.search(r"yuv420p[^,]*, (\d+)x(\d+)", probe).groups())
    raw = subprocess.run(
        [ffmpeg, "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    ).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def moving(n, size=16):
    frames = np.zeros((n, 3, size, size), np.uint8)
    for t in range(n):
        frames[t, :, :, t : t + 4] = 255
    return frames


@pytest.mark.parametrize(("size", "side"), [(16, 64), (9, 36)])
def test_a_film_shows_its_frames(tmp_path, size, side):
    frames = moving(5, size)
    media.write_mp4(tmp_path / "new" / "film.mp4", frames)
    back = read(tmp_path / "new" / "film.mp4")
    assert len(back) == 5
    assert back[0].shape == (side, side, 3)
    for t in range(5):
        assert abs(back[t].astype(int) - media.enlarge(frames[t], 4).transpose(1, 2, 0)).mean() < 8
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["film.mp4"]


def test_no_frames_no_film(tmp_path):
    with pytest.raises(AssertionError, match="at least one frame"):
        media.write_mp4(tmp_path / "f.mp4", [])
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_the_old_film(tmp_path):
    path = tmp_path / "f.mp4"
    media.write_mp4(path, moving(2))
    before = path.read_bytes()

    def broken():
        yield from moving(2)
        raise RuntimeError("the game came out differently")

    with pytest.raises(RuntimeError, match="differently"):
        media.write_mp4(path, broken())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_columns_and_strips_keep_every_pixel():
    a, b = moving(3), 255 - moving(3)
    both = media.columns(a, b, gap=2)
    assert both.shape == (3, 3, 16, 34)
    assert np.array_equal(both[..., :16], a)
    assert np.array_equal(both[..., 18:], b)
    row = media.strip(a, gap=1)
    assert row.shape == (3, 16, 50)
    assert np.array_equal(row[..., 34:], a[2])


def test_png_round_trip(tmp_path):
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    media.write_png(tmp_path / "a" / "p.png", image)
    data = (tmp_path / "a" / "p.png").read_bytes()
    assert data == media.png(image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1), image)
