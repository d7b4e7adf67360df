import numpy as np
import pytest

import probes
import tms_hooks as tms
from probes import style
from tms_hooks import plots, stats
from tms_hooks.geometry.polytopes import ideal_polytopes
from tms_hooks.plots import layout

# Faces and edges by hand (Euler: V - E + F = 2), faces cut into triangles
SOLIDS = [
    ("tetrahedron", 4, 4, 6),
    ("octahedron", 6, 8, 12),
    ("triangular prism", 6, 8, 9),
    ("square antiprism", 8, 12, 16),
]


@pytest.mark.parametrize(("name", "vertices", "triangles", "edges"), SOLIDS)
def test_a_hull_has_the_edges_of_its_solid(name, vertices, triangles, edges):
    V = ideal_polytopes(vertices)[name].numpy()
    turned = V @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    faces, found = plots.hull(turned)
    assert (len(faces), len(found)) == (triangles, edges)


@pytest.mark.parametrize("V", [np.eye(3), np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0.0]])])
def test_what_spans_no_volume_has_no_hull_and_is_still_drawn(V):
    faces, edges = plots.hull(V)
    assert len(faces) == len(edges) == 0
    lines, arrows, dots = plots.polyhedra({"flat": V}).data
    assert lines.x is None or len(lines.x) == 0
    assert len(arrows.x) == 3 * len(V)
    np.testing.assert_allclose(np.stack([dots.x, dots.y, dots.z], axis=1), V)


def test_polyhedra_have_a_scene_each():
    solids = {name: ideal_polytopes(n)[name].numpy() for name, n, *_ in SOLIDS}
    fig = plots.polyhedra(solids)
    assert {trace.scene for trace in fig.data} == {"scene", "scene2", "scene3", "scene4"}
    meshes = [trace for trace in fig.data if trace.type == "mesh3d"]
    assert [len(mesh.i) for mesh in meshes] == [triangles for *_, triangles, _ in SOLIDS]


def test_typical_takes_the_first_of_the_most_frequent():
    W = np.arange(5.0)[:, None, None]
    found = plots.typical(W, ["rare", "a", "b", "a", "b"], most=2)
    assert {title: float(w[0, 0]) for title, w in found.items()} == {"a (40%)": 1.0, "b (40%)": 2.0}


def test_grouped_shares_keep_groups_in_order_and_intervals():
    tables = {
        n: stats.census(names, np.zeros(len(names)), "_")
        for n, names in (("5", ["b", "b"]), ("4", ["b", "a", "a", "a"]))
    }
    bars = {bar.name: bar for bar in plots.grouped_shares(tables, "n").data}
    assert list(bars["b"].x) == ["5", "4"]
    assert list(bars["b"].y) == [1, 0.25]
    np.testing.assert_allclose(bars["b"].y[1] - bars["b"].error_y.arrayminus[1], stats.wilson(1, 4)[0])


def test_share_map_leaves_gaps_for_what_was_not_tried():
    (heatmap,) = plots.share_map(np.array([[1.0, np.nan]]), ["1", "2"], ["a"], "x").data
    assert (heatmap.zmin, heatmap.zmax, heatmap.hoverongaps) == (0, 1, False)


# A zero below


def test_distributions_of_nothing_are_drawn_and_counted():
    nothing, one = np.empty(0), np.array([2.0])
    assert [bars.name for bars in plots.distributions({"a": nothing}, "x", {"a": "#000"}).data] == ["a (n = 0)"]
    assert len(plots.distributions({}, "x", {}).data) == 0
    (bars,) = plots.distributions({"a": one}, "x", {"a": "#000"}).data
    assert bars.xbins.size > 0


def test_a_flat_landscape_has_a_step_between_contours():
    edge, flat = np.array([-1.0, 1.0]), np.ones((1, 2, 2))
    figure = plots.loss_landscapes(flat, edge, edge, np.zeros((1, 2)), np.ones((1, 5, 2)), ["a"], "x", "y", 1.0)
    assert figure.data[0].contours.size > 0


def test_costs_of_zero_are_ties():
    axis = np.array([0.1, 1.0])
    costs = np.array([[[0.0, 0.0], [1.0, 2.0]], [[0.0, 1.0], [1.0, 1.0]]])
    figure = plots.phase_map(np.zeros((2, 2), int), costs, (axis, axis), (axis, axis), ["a", "b"], "x", "y")
    first, second = (trace.z for trace in figure.data if trace.type == "contour")
    np.testing.assert_allclose(first, [[0, np.inf], [0, -0.6931]])
    np.testing.assert_allclose(second, [[0, -np.inf], [0, 0.6931]])


def test_boundaries_have_the_ink_of_the_page():
    axis = np.array([0.1, 1.0])
    figure = plots.phase_map(
        np.zeros((2, 2), int), np.ones((2, 2, 2)), (axis, axis), (axis, axis), ["a", "b"], "x", "y"
    )
    boundaries = [trace for trace in figure.data if trace.type == "contour"]
    assert {trace.line.color for trace in boundaries} == {None}, "a color of its own, which no theme changes"
    for name, theme in style.THEMES.items():
        assert style.template(name)["data"]["contour"][0]["line"]["color"] == theme.ink


def test_arrows_of_zero_length_are_drawn_at_the_origin():
    zero = np.zeros((1, 1, 2))
    assert all(np.isfinite(np.array(trace.x, float)).all() for trace in plots.write_and_read(zero, zero, ["a"]).data)


def test_figures_with_a_mark_per_feature_have_the_ground_of_all_others():
    values = np.ones((2, 3))
    for figure in (
        plots.norm_bars(values, values, ["a", "b"]),
        plots.interference_graphs({"a": np.eye(2)}),
        plots.feature_lines(np.array([0, 1]), {"a": values}, "loss"),
    ):
        assert figure.layout.template.layout.plot_bgcolor == style.THEMES["light"].paper


def test_norm_bars_are_colored_by_interference():
    norms = np.array([[1.0, 0.5], [0.0, 1.0]])
    fig = plots.norm_bars(norms, 2 * norms, ["a", "b"])
    assert [bar.y.tolist() for bar in fig.data] == norms.tolist()
    assert fig.data[1].marker.color.tolist() == [0.0, 2.0]


def test_interference_graphs_join_features_that_interfere_and_name_their_shapes():
    digon_and_point = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.1]])
    fig = plots.interference_graphs({"": digon_and_point})
    assert sum(trace.mode == "lines" for trace in fig.data) == 1
    assert [trace.text[0] for trace in fig.data if trace.mode == "text"] == ["digon", "point"]
    assert [list(each.text) for each in fig.data if each.mode == "markers+text"] == [["0", "1"], ["2"]]


def test_feature_lines_mark_the_feature_that_is_named():
    values = np.arange(1.0, 7.0).reshape(2, 3)
    fig = plots.feature_lines(np.array([0, 10]), {"a pentagon": values, "a hexagon": values}, "loss", {"a pentagon": 2})
    assert [line.y.tolist() for line in fig.data[:3]] == values.T.tolist()
    assert [line.line.dash for line in fig.data] == ["solid", "solid", "dash", "solid", "solid", "solid"]


# One look


def test_plots_and_renders_have_one_look():
    square = np.array([[0.5, -2.0], [1.0, 0.0]])
    drawn = [plots.signed_heatmap(square, "x", "y", "c"), probes.render.cosine_figure(tms.geometry.gram(np.eye(2)))]
    for figure in drawn:
        assert figure.layout.template.layout.font.family == style.FONT
        assert figure.data[0].autocolorscale
        assert figure.layout.yaxis.scaleanchor == "x"
    scales = {theme: style.template(theme)["layout"]["colorscale"]["diverging"] for theme in style.THEMES}
    for scale in scales.values():
        assert [scale[0][1], scale[2][1]] == [style.NEGATIVE, style.POSITIVE]
    assert scales["dark"][1][1] != scales["light"][1][1]


def test_a_matrix_that_is_not_square_fills_its_place():
    assert plots.signed_heatmap(np.ones((2, 3)), "x", "y", "c").layout.yaxis.scaleanchor is None


def test_panels_wrap():
    figure = plots.matrices(np.ones((5, 2, 2)), list("abcde"))
    rows = {figure.layout[name].domain for name in ("yaxis", "yaxis4", "yaxis5")}
    assert len(rows) == 2
    assert figure.layout.yaxis.domain == figure.layout.yaxis4.domain
    assert len(plots.polyhedra({str(i): np.eye(3) for i in range(6)}).layout.annotations) == 6


# Through training


@pytest.fixture(scope="module")
def run():
    data = tms.CorrelatedGroups(n_features=4, feature_probability=0.2)
    how = {"steps": 30, "record_every": 10, "batch_size": 32, "engine": "torch", "progress": False}
    return tms.train(tms.ToyConfig(4, 2), data, seeds=6, **how)


def test_a_movie_has_the_recorded_directions_and_ends_with_the_trained_ones(run):
    movie = plots.movie(run)
    assert [frame.name for frame in movie.frames] == ["0", "10", "20", "30"]
    arrows = [trace for trace in movie.data if trace.name]
    assert len(arrows) == 4 * 4  # the first four models
    np.testing.assert_allclose([[t.x[1], t.y[1]] for t in arrows], run.W_E[:4].reshape(-1, 2))
    for step, frame in enumerate(movie.frames):
        found = [[t.x[1], t.y[1]] for t in frame.data]
        np.testing.assert_allclose(found, run.history.W_E[step, :4].values.reshape(-1, 2))
        assert [movie.data[i].name for i in frame.traces] == [t.name for t in arrows]
    reach = max(1.0, float(np.linalg.norm(run.history.W_E[:, :4], axis=-1).max()))
    assert movie.layout.xaxis.range[1] >= reach


@pytest.mark.parametrize(
    ("W", "rule"),
    [
        (np.zeros((2, 1, 4, 2)), "2 records make no movie: train with record_every"),
        (np.zeros((3, 4, 2)), "must be .step, model, feature, 2."),
        (np.zeros((3, 1, 4, 3)), "arrows are drawn in 2"),
    ],
)
def test_what_makes_no_movie_is_refused(W, rule):
    with pytest.raises(ValueError, match=rule):
        plots.movie(W)


def test_features_of_a_group_share_a_color_and_a_name(run):
    arrows = [trace for trace in plots.feature_arrows(run).data if trace.name][:4]
    assert [trace.name for trace in arrows] == [f"feature {i}, group {i // 2}" for i in range(4)]
    assert arrows[0].line.color == arrows[1].line.color != arrows[2].line.color
    assert arrows[0].line.dash != arrows[1].line.dash
    alone = [trace.line.color for trace in plots.feature_arrows(run.W_E[0]).data if trace.name]
    assert len(set(alone)) == 4


def test_polyhedra_go_round():
    figure = plots.polyhedra({"a": np.eye(3), "b": -np.eye(3)})
    eyes = [np.array([*f.layout.scene2.camera.eye.to_plotly_json().values()]) for f in figure.frames]
    np.testing.assert_allclose(eyes[0], eyes[-1], atol=1e-9)
    np.testing.assert_allclose([np.linalg.norm(eye) for eye in eyes], np.linalg.norm(eyes[0]))
    np.testing.assert_allclose(eyes[len(eyes) // 2][:2], -eyes[0][:2], atol=1e-9)


# A run, many models or one


def drawn_of(run):
    """Every plot of models: of a run, of its arrays with its labels, of one model's."""
    W, labels, path = run.W_E, run.labels, run.history.W_E.values.swapaxes(0, 1)
    gram, norms, spread = (getattr(tms.geometry, name)(W) for name in ("gram", "feature_norms", "interference"))
    return {
        "matrices": (plots.matrices(run), plots.matrices(gram, labels), plots.matrices(gram[0])),
        "norm_bars": (
            plots.norm_bars(run), plots.norm_bars(norms, spread, labels), plots.norm_bars(norms[0], spread[0])
        ),
        "trajectories": (plots.trajectories(run), plots.trajectories(path, labels), plots.trajectories(path[0])),
        "write_and_read": (
            plots.write_and_read(run), plots.write_and_read(W, W, labels), plots.write_and_read(W[0], W[0])
        ),
        "interference_graphs": (
            plots.interference_graphs(run),
            plots.interference_graphs(dict(zip(labels, W, strict=True))),
            plots.interference_graphs(W[0]),
        ),
    }  # fmt: skip


def test_plots_of_models_take_a_run_arrays_or_one_model(run):
    for name, (whole, arrays, one) in drawn_of(run).items():
        assert whole == arrays, name
        assert [title.text for title in whole.layout.annotations] == run.labels, name
        assert len(list(one.select_xaxes())) == 1, name
        for alone, beside in zip(one.data, whole.data, strict=False):
            np.testing.assert_array_equal(alone.x, beside.x, err_msg=name)


def test_polyhedra_take_a_run_and_are_drawn_whole():
    cfg, data = tms.ToyConfig(4, 3), tms.OneHot(4)
    run = tms.train(cfg, data, seeds=3, steps=5, engine="torch", progress=False)
    assert plots.polyhedra(run) == plots.polyhedra(dict(zip(run.labels, run.W_E, strict=True)))
    assert len(plots.polyhedra(run.W_E[0]).data) * 3 == len(plots.polyhedra(run).data)
    assert plots.polyhedra(2 * np.eye(3)).layout.scene.xaxis.range[1] > 2


W5 = np.ones((2, 6, 5))
NOT_DRAWN = [
    (lambda run: plots.feature_arrows(W5), ValueError, "in 5 dimensions: .*`matrices.run.` .* `norm_bars.run.`"),
    (lambda run: plots.polyhedra(run), ValueError, "in 2 dimensions: .*`feature_arrows` draws 2"),
    (lambda run: plots.matrices(W5, ["a"]), ValueError, r"titles=\['a'\] for 2 models: give a list of one per model"),
    (lambda run: plots.matrices(W5[0, 0]), ValueError, r"shape \(5,\): must be an array \(model, y, x\), or \(y"),
    (lambda run: plots.matrices(np.ones((0, 2, 2))), ValueError, "0 models: a figure shows 1 to 40"),
    (lambda run: layout.models_to_draw(run.models[0]), ValueError, "a ToyModel: must be an array .model, feature, hid"),
    (lambda run: plots.norm_bars(W5[:, :, 0]), ValueError, "interference is missing: give geometry.interference"),
    (lambda run: plots.norm_bars(W5[:, :, 0], W5[:1, :, 0]), ValueError, "norms of 2 models .* of the same models"),
    (lambda run: plots.polyhedra(np.ones((17, 4, 3))), ValueError, "17 models: a figure shows 1 to 16"),
    (
        lambda run: plots.signed_heatmap(run, "x", "y", "c"),
        TypeError,
        "signed_heatmap draws numbers, not a run: give",
    ),
    (lambda run: plots.strips(run, "y"), TypeError, "strips draws numbers, not a run"),
    (lambda run: tms.geometry.dimensionality(run), TypeError, "dimensionality takes W, a tensor .* of this Run, .W_E"),
    (lambda run: tms.geometry.name_polytope(run.models[0]), TypeError, "of this ToyModel, .W_E"),
]


@pytest.mark.parametrize(("call", "kind", "said"), NOT_DRAWN)
def test_what_a_plot_cannot_draw_is_told(run, call, kind, said):
    with pytest.raises(kind, match=said):
        call(run)


def test_panels_of_every_kind_wrap_in_our_look_with_titles_apart(run):
    for name, (figure, *_) in drawn_of(run).items():
        rows = {axis.domain for axis in figure.select_yaxes()}
        assert len(rows) == 2, name  # of six models
        assert figure.layout.template.layout.font.family == style.FONT, name
    lines = {f"feature_probability={i}": np.ones((3, 2)) for i in range(5)}
    figure = plots.feature_lines(np.arange(3), lines, "loss")
    assert len({axis.domain for axis in figure.select_yaxes()}) == 2
    assert "<br>" in figure.layout.annotations[0].text


def test_interference_above_1_is_told_apart():
    fig = plots.norm_bars(np.ones((8, 3)), np.array([[0.0, 1.5, 3.0]] * 8), [str(i) for i in range(8)])
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 3)
    assert {axis.matches for axis in fig.select_yaxes()} == {"y"}


def test_a_legend_says_which_color_is_which_feature(run):
    for figure in (plots.feature_arrows(run), plots.write_and_read(run), plots.trajectories(run), plots.movie(run)):
        assert figure.layout.showlegend
        named = [trace for trace in figure.data if trace.showlegend is not False and trace.name]
        assert [trace.legendgroup for trace in named] == [str(i) for i in range(4)]
        assert all(trace.showlegend is False for trace in figure.data if not trace.name)
    assert not plots.feature_arrows(np.ones((1, 9, 2))).layout.showlegend  # colors come round
