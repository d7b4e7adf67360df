"""Products and transposes of the compiled engine beside numpy: at every edge of a tile, and nothing else touched."""

from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from tms_hooks.fused.kernels import products  # noqa: E402  where numba is
from tms_hooks.fused.kernels.lanes import LANES  # noqa: E402
from tms_hooks.fused.kernels.plain import aligned  # noqa: E402

LIKE = np.zeros(1, np.float32)
WIDTHS = (1, 5, 7, 15, 16, 17, 31, 33, 48, 49)
HEIGHTS = (1, 5, 6, 7, 25, 33)
ROWS = (1, 15, 16, 97)


@numba.njit(_nrt=False)
def add_outer(to: Any, left: Any, right: Any, across: Any, rows: int, sums: Any) -> None:
    products.turn(across, right, rows)
    products.add_outer(to, left, right, across, rows, sums)


@numba.njit(_nrt=False)
def transpose(to: Any, source: Any) -> None:
    products.transpose(to, source)


@numba.njit(_nrt=False)
def product(to: Any, start: Any, w: Any, source: Any, rows: int) -> None:
    products.product(to, start, w, source, rows)


def rows_of(count: int, rows: int, seed: int) -> np.ndarray:
    """So many features by rows, zeros up to a strip, and behind it what nobody is to read."""
    x = aligned(count, -(-rows // LANES) * LANES + LANES, LIKE)
    x[:, :rows] = np.random.default_rng(seed).normal(size=(count, rows))
    x[:, -LANES:] = np.nan
    return x


@pytest.mark.parametrize("height", HEIGHTS)
@pytest.mark.parametrize("width", WIDTHS)
def test_an_outer_product_adds_to_its_matrix_and_to_nothing_else(height, width):
    for rows in ROWS:
        left, right = rows_of(height, rows, 0), rows_of(width, rows, 1)
        flat = aligned(1, height * width + LANES, LIKE)[0]
        flat[:] = np.arange(len(flat))
        before, to = flat.copy(), flat[: height * width].reshape(height, width)
        across = aligned(len(right[0]), products.padded(width), LIKE)
        across[:] = np.nan
        add_outer(to, left, right, across, rows, aligned(LANES, LANES, LIKE))
        wanted = left[:, :rows].astype(np.float64) @ right[:, :rows].T
        np.testing.assert_allclose(to - before[: height * width].reshape(to.shape), wanted, atol=2e-4)
        np.testing.assert_array_equal(flat[height * width :], before[height * width :])


def test_what_is_no_number_stays_in_its_row():
    left, right = rows_of(8, 20, 0), rows_of(17, 20, 1)
    left[3, 5] = np.nan
    to, across = aligned(8, 17, LIKE), aligned(48, products.padded(17), LIKE)
    add_outer(to, left, right, across, 20, aligned(LANES, LANES, LIKE))
    assert np.isnan(to).any(1).tolist() == [i == 3 for i in range(8)]


@pytest.mark.parametrize("height", WIDTHS)
def test_a_transpose_fills_what_there_is_room_for(height):
    for width in WIDTHS:
        source = np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)
        to = np.full((width + 1, height + 2), 7, np.float32)
        transpose(to, source)
        np.testing.assert_array_equal(to[:width, :height], source.T)
        assert (to[width:] == 7).all()
        assert (to[:, height:] == 7).all()
        less = np.zeros((width, max(height - 3, 1)), np.float32)
        transpose(less, source)
        np.testing.assert_array_equal(less, source.T[:, : less.shape[1]])


@pytest.mark.parametrize("height", HEIGHTS)
def test_a_product_begins_at_its_start(height):
    for width in WIDTHS:
        for rows in ROWS:
            rng = np.random.default_rng(2)
            w, start = rng.normal(size=(height, width)).astype(np.float32), rng.normal(size=height).astype(np.float32)
            source = aligned(width, -(-rows // 64) * 64 + LANES, LIKE)
            source[:, :rows] = rng.normal(size=(width, rows))
            to = np.zeros((height, source.shape[1]), np.float32)
            product(to, start, w, source, rows)
            wanted = start[:, None] + w.astype(np.float64) @ source[:, :rows]
            np.testing.assert_allclose(to[:, :rows], wanted, atol=1e-4)
