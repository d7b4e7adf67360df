"""What docs/models.md says is what the models do: its examples, its table of hook points, its formulas."""

import doctest
import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import tms_hooks as tms

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
ROW = re.compile(r"\| `(\S*hook_\S+)` \| ([a-z_ ]+) \| .* \| (every toy|`n_heads`|`d_mlp`|\"residual\") \|")
SIZES = {"batch": 3, "pos": 4, "hidden": 2, "output": 5, "head": 6, "d_head": 7, "mlp": 8}
KINDS = [
    {},
    {"n_heads": 6, "d_head": 7, "head_bias": True},
    {"d_mlp": 8},
    {"d_mlp": 8, "bottleneck": "mlp.out->unembed", "n_heads": 6, "d_head": 7},
    {"d_mlp": 8, "bottleneck": "residual", "n_heads": 6, "d_head": 7},
]


def test_examples():
    result = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 7
    assert result.failed == 0


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_table_of_hook_points(kind):
    cfg = tms.ToyConfig(n_features=9, d_hidden=2, d_out=5, tied=False, **kind)
    there = {"every toy": True, "`n_heads`": cfg.n_heads, "`d_mlp`": cfg.d_mlp}
    there['"residual"'] = cfg.bottleneck == "residual"
    expected = {}
    for name, shape, where in ROW.findall(PAGE.read_text()):
        axes = shape.split()
        if cfg.n_heads and "pos" not in axes:
            axes.insert(1, "pos")
        if there[where]:
            expected[name] = tuple(SIZES[axis] for axis in axes)
    x = torch.rand((3, 4, 9) if cfg.n_heads else (3, 9), generator=torch.Generator().manual_seed(0))
    _, cache = tms.ToyModel(cfg).run_with_cache(x)
    assert {name: tuple(value.shape) for name, value in cache.items()} == expected


def test_the_formulas():
    found = re.findall(r"^\| (\"[a-z.>-]+\") \| .*$", PAGE.read_text(), re.MULTILINE)
    assert found == ['"embed->unembed"', '"embed->mlp.in"', '"mlp.out->unembed"', '"residual"']
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    for path in found:
        cfg = tms.ToyConfig(
            n_features=4,
            d_hidden=3,
            tied=False,
            hidden_bias=True,
            hidden_act="gelu",
            d_mlp=None if path == '"embed->unembed"' else 5,
            bottleneck=path.strip('"'),
            init="linear",
        )
        model = tms.ToyModel(cfg)

        def mlp(h, model=model):
            return (h @ model.W_in[0]).relu() @ model.W_out[0]

        gelu, before = torch.nn.functional.gelu, x @ model.W_E
        hidden = gelu((mlp(before) if cfg.bottleneck == "mlp.out->unembed" else before) + model.b_hidden)
        if cfg.bottleneck == "residual":
            hidden = hidden + mlp(hidden)
        out = mlp(hidden) if cfg.bottleneck == "embed->mlp.in" else hidden @ model.W_U
        assert_close(model(x), (out + model.b_U).relu())
