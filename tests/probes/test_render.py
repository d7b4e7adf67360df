import re

import pandas as pd
import pytest
import torch

from probes import Site, patch_sweep
from probes.render import (
    attention,
    bundle,
    cosine_figure,
    slices_figure,
    spectrum_figure,
    sweep_figure,
    token_values,
)
from probes.transformers import load_transformer

TOKENS = ["When", " Mary", "</script><!--<script><b>"]


def test_a_page_holds_the_bundle_once_and_each_visual_after_it():
    scores = torch.tensor([[[0.0, 1.0, -2.0]] * 3, [[0.5, 0.0, 0.0]] * 3])
    visuals = [attention(TOKENS, scores), attention(TOKENS, scores[:1]), token_values(TOKENS, torch.randn(3, 2))]
    page = bundle() + "".join(v.html() for v in visuals) + visuals[0].html()
    assert page.count("var CircuitsVis=") == 1
    names = re.findall(r'CircuitsVis\.render\("([^"]+)"', page)
    assert len(names) == len(set(names)) == 4  # the same visual twice: two elements
    # a token cannot end the script that it stands in, nor open another inside it
    assert page.count("<script") - bundle().count("<script") == 4
    assert page.count("</script>") == 5


def test_nothing_is_fetched():
    page = attention(TOKENS, torch.zeros(1, 3, 3))._repr_html_()
    outside = page.replace(bundle(), "")
    assert "http" not in outside
    assert "src=" not in outside
    assert "import " not in outside
    assert "unpkg.com" not in bundle()


def test_a_notebook_gets_bundle_and_visual():
    visual = attention(TOKENS, torch.zeros(1, 3, 3))
    assert visual._repr_html_().startswith(bundle())
    assert visual._repr_html_() != visual._repr_html_()


def test_colors_are_symmetric_about_zero_and_nothing_is_masked():
    props = attention(TOKENS, torch.tensor([[[0.0, 1.0, -2.0]] * 3])).props
    assert (props["minValue"], props["maxValue"]) == (-2.0, 2.0)
    assert props["maskUpperTri"] is False
    assert attention(TOKENS, torch.zeros(1, 3, 3)).props["maxValue"] == 1.0


def test_figures_hold_the_arrays():
    cosines = torch.tensor([[1.0, -0.5], [0.0, 0.25]])
    heatmap = cosine_figure(cosines).data[0]
    assert [list(row) for row in heatmap.z] == cosines.tolist()
    assert (heatmap.zmin, heatmap.zmax) == (-1, 1)
    spectrum = spectrum_figure({"toy": torch.tensor([4.0, 2.0, 0.0]), "real": torch.tensor([10.0])})
    assert spectrum.data[0].y == (1.0, 0.5, None)
    assert spectrum.layout.yaxis.type == "log"
    # 4 = 5 + 1 - 2, largest first: 5/4, 6/4, 4/4; the same of a negative score
    for sign in (1, -1):
        assert slices_figure({"head": sign * torch.tensor([1.0, -2.0, 5.0])}).data[0].y == (1.25, 1.5, 1.0)
    for figure in (cosine_figure(cosines), spectrum, slices_figure({"x": torch.ones(2)})):
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text


def test_bad_input():
    with pytest.raises(ValueError, match=r"scores of shape \(1, 2, 2\) for 3 tokens"):
        attention(TOKENS, torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="scores are masked or not finite somewhere"):
        attention(TOKENS, torch.full((1, 3, 3), torch.finfo(torch.float32).min))
    with pytest.raises(ValueError, match="values are masked or not finite"):
        token_values(TOKENS, torch.full((3, 1), torch.nan))
    with pytest.raises(ValueError, match="2 names for 1 heads"):
        attention(TOKENS, torch.zeros(1, 3, 3), heads=["a", "b"])
    with pytest.raises(ValueError, match="for 3 tokens and 1 labels"):
        token_values(TOKENS, torch.zeros(3, 2), labels=["a"])
    with pytest.raises(ValueError, match="slices of 'x' sum to zero"):
        slices_figure({"x": torch.tensor([1.0, -1.0])})


def test_a_sweep_is_drawn_hook_by_position():
    clean, corrupted = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 2, 3], [8, 5, 6]])
    sites = [Site(hook=f"blocks.{layer}.hook_resid_pre", pos="each") for layer in (0, 1)]
    table = patch_sweep(load_transformer("tiny"), clean, corrupted, lambda logits: logits[:, -1, 0], sites)
    (heatmap,) = sweep_figure(table).data
    assert list(heatmap.y) == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
    assert list(heatmap.x) == ["0", "1", "2"]
    assert heatmap.z.flatten().tolist() == table.recovered.tolist()
    assert heatmap.zmin == -heatmap.zmax
    both = patch_sweep(
        load_transformer("tiny"),
        clean,
        corrupted,
        lambda logits: logits[:, -1, 0],
        Site(hook="blocks.0.attn.hook_q", pos="each", head="each"),
    )
    with pytest.raises(ValueError, match="pos and head"):
        sweep_figure(both)
    (one_head,) = sweep_figure(both[both["head"] == 2]).data
    assert one_head.z.shape == (1, 3)


def test_sites_that_only_directions_tell_apart_have_a_row_each():
    clean, corrupted = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7, 2, 3], [8, 5, 6]])
    hook, eye = "blocks.0.hook_resid_pre", torch.eye(64)
    sites = [Site(hook, directions=eye[0]), Site(hook, directions=eye[1]), Site(hook, directions=eye[:2]), Site(hook)]
    table = patch_sweep(load_transformer("tiny"), clean, corrupted, lambda logits: logits[:, -1, 0], sites)
    (heatmap,) = sweep_figure(table).data
    assert list(heatmap.y) == [f"{hook}[directions=1]", f"{hook}[directions=1] (2)", f"{hook}[directions=2]", hook]
    assert heatmap.z.flatten().tolist() == table.recovered.tolist()
    (heatmap,) = sweep_figure(table.assign(pos=pd.array([0, 1, None, 0], dtype="Int64"))).data
    assert heatmap.z.shape == (3, 3)  # three names; positions 0 and 1, and all of them


def test_edges_are_drawn_sender_by_receiver():
    table = pd.DataFrame({"site": ["a[head=0]", "a[head=1]", "b"] * 2, "receiver": ["b10"] * 3 + ["b2"] * 3})
    table = table.assign(hook=["a", "a", "b"] * 2, pos=pd.NA, head=[0, 1, pd.NA] * 2, unit=pd.NA, recovered=range(6))
    (heatmap,) = sweep_figure(table).data
    assert (list(heatmap.y), list(heatmap.x)) == (["a[head=0]", "a[head=1]", "b"], ["b10", "b2"])
    assert heatmap.z.tolist() == [[0, 3], [1, 4], [2, 5]]
