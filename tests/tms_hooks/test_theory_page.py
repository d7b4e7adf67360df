"""The page and the figures of `tms theory --out`: what they show is what the formulas say."""

import numpy as np
import pytest
import torch

from tms_hooks import plots, theory
from tms_hooks.pages import theory_page


@pytest.fixture(scope="module")
def tables():
    return theory.polygon_table(range(3, 9)), theory.best_polygon_table([4, 6], [0.057, 0.3])


def test_page_states_who_wins_and_where_the_stuck_feature_is(tmp_path, tables):
    told = []
    page = theory_page.write_page(tmp_path, *tables, resolution=5, say=told.append)
    assert page == tmp_path / "index.html"
    text = page.read_text()
    assert "with a bias, F = 7; no bias, F = 5" in text
    assert "6 corners at p = 0.057, 4 corners at p = 0.3" in text
    assert "pentagon (sixth feature ignored): loss 0.02906, a minimum" in text
    assert "hexagon (sixth feature learned): loss 0.02820, a minimum" in text
    assert told == [f"summing the exact loss around a {name}, on 5 x 5 points" for name in ("pentagon", "hexagon")]


def test_polygon_weights_have_the_loss_of_theory():
    p = torch.full((6,), theory_page.DENSITY, dtype=torch.float64)
    for F in (5, 6):
        weights = theory_page.polygon_weights(F)
        exact = theory.expected_loss(weights["W_E"] @ weights["W_E"].mT, weights["b_U"], p)
        assert float(exact) == pytest.approx(theory.polygon_loss(6, theory_page.DENSITY, F), abs=1e-9)


def test_counts_map_gives_each_number_a_color_of_its_own():
    (heatmap,) = plots.counts_map(np.array([[4, 4], [7, 5]]), ["a", "b"], ["4", "6"], "p", "n", "corners").data
    assert (heatmap.zmin, heatmap.zmax) == (3.5, 7.5)
    assert [color for _, color in heatmap.colorscale[::2]] == list(plots.PALETTE[:4])
    assert heatmap.texttemplate == "%{z}"


def test_curves_differ_by_more_than_color():
    x = np.arange(3)
    figure = plots.curves({"a": (x, x), "b": (x, x)}, "x", "y")
    assert [t.name for t in figure.data] == ["a", "b"]
    assert len({t.marker.symbol for t in figure.data}) == 2


def test_loss_landscapes_share_one_scale_and_keep_the_true_loss_for_hovering():
    losses = np.array([[[1.0, 9.0], [2.0, 3.0]], [[0.5, 1.0], [1.0, 1.0]]])
    edge = np.array([-1.0, 1.0])
    figure = plots.loss_landscapes(losses, edge, edge, np.zeros((2, 2)), np.ones((2, 5, 2)), ["a", "b"], "x", "y", 4.0)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0.5, 4.0)
    contours = [t for t in figure.data if t.type == "contour"]
    assert [np.max(t.z) for t in contours] == [4.0, 1.0]
    assert np.max(contours[0].customdata) == 9.0
