from importlib import import_module
from itertools import product

import pytest
import torch
from transformer_lens.hook_points import HookPoint

from probes.bottleneck import Bottleneck, _require_stream, bottleneck, end_of
from probes.hooked_module import HookedRootModule
from probes.verification import Observed
from tests.probes import zoo
from tms_hooks import geometry, side_by_side
from tms_hooks.config import ToyConfig
from tms_hooks.models.toy import ToyModel

PATHS = ["embed->unembed", "embed->blocks.1.mlp.in", "blocks.0.mlp.out->blocks.1.mlp.in", "blocks.0.mlp.out->unembed"]


def test_on_a_toy_it_is_W_E_and_W_U():
    for tied in (True, False):
        model = ToyModel(ToyConfig(n_features=6, d_hidden=2, tied=tied))
        directions = bottleneck(model, "embed->unembed")
        torch.testing.assert_close(directions.write, model.W_E.detach(), rtol=0, atol=0)
        torch.testing.assert_close(directions.read, model.W_U.detach().mT, rtol=0, atol=0)


def test_products_are_what_a_toy_reads():
    """Write feature i with strength 1, without bias and nonlinearity: the output is row i of write @ read.T."""
    model = ToyModel(ToyConfig(n_features=6, d_hidden=2, tied=False, output_bias=False, output_act="identity"))
    directions = bottleneck(model, "embed->unembed")
    torch.testing.assert_close(directions.write @ directions.read.mT, model(torch.eye(6)).detach())


@pytest.mark.parametrize(
    ("kind", "path"), [("embed->mlp.in", "embed->blocks.0.mlp.in"), ("mlp.out->unembed", "blocks.0.mlp.out->unembed")]
)
def test_mlp_bottlenecks_of_a_toy(kind, path):
    model = ToyModel(ToyConfig(n_features=6, d_hidden=2, d_mlp=5, tied=False, bottleneck=kind, hidden_bias=False))
    directions = bottleneck(model, path)
    write = model.W_E if kind == "embed->mlp.in" else model.W_out[0]
    read = model.W_in[0].mT if kind == "embed->mlp.in" else model.W_U.mT
    torch.testing.assert_close(directions.write, write.detach(), rtol=0, atol=0)
    torch.testing.assert_close(directions.read, read.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_every_path_of_a_residual_toy(tied):
    model = ToyModel(ToyConfig(n_features=6, d_hidden=3, tied=tied, d_mlp=5, n_mlps=2, bottleneck="residual"))
    writes = {"embed": model.W_E, "blocks.0.mlp.out": model.W_out[0], "blocks.1.mlp.out": model.W_out[1]}
    reads = {"unembed": model.W_U, "blocks.0.mlp.in": model.W_in[0], "blocks.1.mlp.in": model.W_in[1]}
    for (start, write), (end, read) in product(writes.items(), reads.items()):
        if start.startswith("blocks") and end.startswith("blocks") and start[7] >= end[7]:
            continue  # backwards
        directions = bottleneck(model, f"{start}->{end}")
        torch.testing.assert_close(directions.write, write.detach(), rtol=0, atol=0)
        torch.testing.assert_close(directions.read, read.detach().mT, rtol=0, atol=0)


def test_outputs_that_are_not_the_features_are_paired_with_none():
    model = ToyModel(ToyConfig(n_features=6, d_hidden=3, d_out=2, tied=False))
    directions = bottleneck(model, "embed->unembed")
    assert (directions.write.shape, directions.read.shape, directions.paired) == ((6, 3), (2, 3), False)
    assert "gain" not in directions.summary()
    with pytest.raises(ValueError, match="2 outputs for 6 features: no read is a feature's"):
        side_by_side.represented(directions, least_norm=0.5)


@pytest.mark.parametrize("name", ["tiny", "gpt2", "llama"])
def test_shapes_on_transformers(make_bridge, name):
    model, _ = make_bridge(name)
    for path in PATHS:
        directions = bottleneck(model, path)
        assert directions.write.shape[1] == directions.read.shape[1] == model.cfg.d_model
        assert directions.write.shape[0] == (model.cfg.d_vocab if path.startswith("embed") else model.cfg.d_mlp)
        assert directions.read.shape[0] == (model.cfg.d_vocab if path.endswith("unembed") else model.cfg.d_mlp)


@pytest.mark.parametrize("name", ["tiny", "gpt2", "llama", "gemma"])
def test_reads_are_what_the_model_reads(make_bridge, name):
    """Independent reference: the model's own unembedding and MLP input, up to the constant that biases add."""
    model, tokens = make_bridge(name)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    for path, before, after, hook in [
        ("embed->unembed", "unembed.hook_in", "ln_final.hook_normalized", "unembed.hook_out"),
        ("embed->blocks.1.mlp.in", "blocks.1.mlp.hook_in", "blocks.1.ln2.hook_normalized", "blocks.1.mlp.in.hook_out"),
    ]:
        for fold_norm, reads in ((False, before), (True, after)):
            made = cache[reads] @ bottleneck(model, path, fold_norm=fold_norm).read.mT
            constant = (cache[hook] - made).flatten(0, -2)
            torch.testing.assert_close(constant, constant[:1].expand_as(constant), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_interference_of_tied_weights_is_that_of_geometry(tied):
    model = ToyModel(ToyConfig(n_features=6, d_hidden=3, tied=tied), seed=0)
    with torch.no_grad():
        model.W_E[2] = 0.0  # a feature that is not represented
    found = bottleneck(model, "embed->unembed").interference()
    expected = geometry.interference(model.W_E.detach())
    assert found[2] == expected[2] == 0
    assert torch.allclose(found, expected) == tied


def test_summary_agrees_with_the_full_matrix(subject, monkeypatch):
    monkeypatch.setattr(import_module("probes.bottleneck"), "CHUNK", 4)  # several parts, the last of them shorter
    toy = ToyModel(ToyConfig(n_features=6, d_hidden=4))
    directions = bottleneck(toy if hasattr(subject.model, "W") else subject.model, "embed->unembed")
    full = directions.write @ directions.read.mT
    summary = directions.summary()
    torch.testing.assert_close(torch.tensor(summary["gain"].to_numpy()), full.diagonal())
    others = full - torch.diag(full.diagonal())
    torch.testing.assert_close(torch.tensor(summary["spill"].to_numpy()), others.norm(dim=1))
    torch.testing.assert_close(torch.tensor(summary["largest"].to_numpy()).abs(), others.abs().amax(1))
    for i, row in summary.iterrows():
        assert row["largest"] == pytest.approx(full[i, int(row["largest_with"])].item())
    torch.testing.assert_close(torch.tensor(summary["write_norm"].to_numpy()), directions.write.norm(dim=1))
    some = directions.summary(sample=3, seed=2)
    assert len(some) == 3
    # another number of rows at once may differ in the last bit
    torch.testing.assert_close(torch.tensor(some.to_numpy()), torch.tensor(summary.loc[some.index].to_numpy()))


def test_summary_of_unpaired_reads(subject):
    write, read = torch.eye(3), torch.tensor([[2.0, 0.0, 0.0], [0.0, -3.0, 1.0]])
    summary = Bottleneck("blocks.0.mlp.out->unembed", write, read).summary()
    assert list(summary.columns) == ["write_norm", "spill", "largest", "largest_with"]
    assert summary["largest"].tolist() == [2.0, -3.0, 1.0]
    assert summary["largest_with"].tolist() == [0, 1, 1]


def test_unit_directions_interfere_by_their_cosine():
    square = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    unit = Bottleneck("embed->unembed", square, square).unit()
    torch.testing.assert_close(unit.summary()["gain"].to_list(), [1.0, 1.0, 1.0])
    assert unit.summary().loc[0, "largest"] == pytest.approx(0.5**0.5)


def test_bad_requests(subject):
    for path in ("unembed->embed", "embed->blocks.0.mlp.out", "embed"):
        with pytest.raises(ValueError, match=r"no bottleneck .*; choose 'embed->unembed'"):
            bottleneck(subject.model, path)
    with pytest.raises(ValueError, match="runs backwards: block 1's MLP writes after block 0's has read"):
        bottleneck(subject.model, "blocks.1.mlp.out->blocks.0.mlp.in")
    with pytest.raises(IndexError, match=r"layer 7: this .* has layers 0 to"):
        bottleneck(subject.model, "embed->blocks.7.mlp.in")
    with pytest.raises(ValueError, match="sample=0: 'embed->unembed' writes"):
        bottleneck(ToyModel(ToyConfig(n_features=6, d_hidden=4)), "embed->unembed").summary(sample=0)


def test_an_end_that_is_not_there(make_bridge):
    toy = ToyModel(ToyConfig(n_features=6, d_hidden=4, n_heads=1))
    with pytest.raises(ValueError, match=r"no mlp\.W_in here"):
        bottleneck(toy, "embed->blocks.0.mlp.in")
    with pytest.raises(ValueError, match="no norm in front"):
        bottleneck(toy, "embed->unembed", fold_norm=True)
    with pytest.raises(ValueError, match="no norm in front"):
        bottleneck(make_bridge("bert")[0], "embed->blocks.0.mlp.in", fold_norm=True)


def test_a_path_that_a_toy_does_not_have():
    toy = ToyModel(ToyConfig(n_features=6, d_hidden=4, d_mlp=8, tied=False, bottleneck="mlp.out->unembed"))
    with pytest.raises(ValueError, match="no multiple of W_E"):  # the MLP stands between
        bottleneck(toy, "embed->unembed")


@pytest.mark.parametrize("tied", [True, False])
def test_a_scale_is_part_of_what_is_read(tied):
    """Write feature i with strength 1: without bias and nonlinearity the output is row i of write @ read.T."""
    model = ToyModel(ToyConfig(n_features=6, d_hidden=3, tied=tied, unit_norm=True, output_bias=False))
    with torch.no_grad():
        model.scale.fill_(2.0)
    directions = bottleneck(model, "embed->unembed")
    _, cache = model.run_with_cache(torch.eye(6))
    torch.testing.assert_close(directions.write @ directions.read.mT, cache["hook_unembed"].detach())


def test_inputs_that_cannot_tell_a_multiplier_from_a_bias(make_bridge):
    """One example, or copies of one: the multiplier is still found, or the path refused; never taken for 1."""
    tokens = torch.tensor([[5, 9, 3, 7]])
    model, _ = make_bridge("gemma")
    whole = bottleneck(model, "embed->unembed")
    for inputs in (tokens, tokens.expand(3, -1), tokens[:, :1]):
        found = bottleneck(model, "embed->unembed", inputs=inputs)
        torch.testing.assert_close(found.write, whole.write, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.read, whole.read, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"no multiple of W_E: .* or the inputs are too few"):
        bottleneck(make_bridge("gpt2")[0], "embed->unembed", inputs=tokens)  # position embeddings
    toy = ToyModel(ToyConfig(n_features=6, d_hidden=3, unit_norm=True))
    with torch.no_grad():
        toy.scale.fill_(2.0)
        toy.b_U += torch.linspace(-1, 1, 6)
    with pytest.raises(ValueError, match="or the inputs are too few"):
        bottleneck(toy, "embed->unembed", inputs=torch.ones(1, 6))
    bottleneck(toy, "embed->unembed", inputs=torch.eye(6)[:2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(make_bridge, dtype):
    model, _ = make_bridge("gpt2")
    exact = bottleneck(model, "embed->unembed").summary()
    way = bottleneck(model.to(dtype), "embed->unembed")
    torch.testing.assert_close(way.summary()["gain"].to_list(), exact["gain"].to_list(), rtol=0.03, atol=0.03)
    assert way.circuit.S.dtype == torch.float64


def test_a_multiplier_of_the_embedding_is_part_of_what_is_written(make_bridge):
    """Gemma multiplies its embedding by the root of the width."""
    model, _ = make_bridge("gemma")
    written = bottleneck(model, "embed->unembed").write
    torch.testing.assert_close(written, 32**0.5 * model.W_E.detach(), rtol=1e-5, atol=1e-6)


class Pooled(HookedRootModule):
    """Its hidden layer is the mean over the positions, as in a classifier of texts."""

    def __init__(self):
        super().__init__()
        self.W_E, self.W_U = (torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 3), (3, 6)))
        self.hook_hidden = HookPoint()
        self.setup()

    def forward(self, x):
        return self.hook_hidden((x @ self.W_E).mean(1)) @ self.W_U


def test_a_hidden_layer_of_other_rows_than_the_inputs_is_refused():
    with pytest.raises(ValueError, match="what arrives in the residual stream is no multiple of W_E"):
        bottleneck(Pooled(), "embed->unembed", inputs=torch.rand(4, 5, 6))


class Halves(HookedRootModule):
    """Two MLPs that add to a stream, with a hook behind each and none in front."""

    def __init__(self):
        super().__init__()
        self.W_E, self.W_U = (torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 3), (3, 6)))
        self.blocks = torch.nn.ModuleList(Half() for _ in range(2))
        self.setup()

    def forward(self, x):
        stream = x @ self.W_E
        for block in self.blocks:
            stream = block(stream)
        return stream @ self.W_U


class Half(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp, self.hook_resid_post = torch.nn.Module(), HookPoint()
        self.mlp.W_in, self.mlp.W_out = (torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 5), (5, 3)))
        self.mlp.hook_post = HookPoint()

    def forward(self, stream):
        return self.hook_resid_post(stream + self.mlp.hook_post((stream @ self.mlp.W_in).relu()) @ self.mlp.W_out)


def test_what_cannot_be_verified_for_want_of_a_hook_is_refused():
    model, x = Halves(), torch.rand(12, 6)
    with pytest.raises(ValueError, match="no multiple of block 0's W_out"):
        bottleneck(model, "blocks.0.mlp.out->unembed", inputs=x)
    with pytest.raises(ValueError, match="no multiple of W_E"):
        bottleneck(model, "embed->unembed", inputs=x)
    stream = {f"blocks.0.hook_resid_{end}": torch.rand(3, 4) for end in ("pre", "post")}
    for name, value in stream.items():  # of a block whose sum cannot be checked nothing is believed
        with pytest.raises(ValueError, match="block 0 does more to the residual stream than to add"):
            _require_stream(Observed(x, {name: value}, x, 1e-4), 0)


@pytest.mark.bridge
@pytest.mark.parametrize(("name", "factor"), [("granite", 0.3), ("cohere", 1.0), ("gpt2", 1.0)])
def test_what_an_mlp_writes_behind_and_beside_attention(name, factor):
    """Granite adds 0.3 of what attention and MLP make, one after the other; Cohere's stand side by side."""
    model = zoo.build(name)
    written = bottleneck(model, "blocks.0.mlp.out->blocks.1.mlp.in").write
    torch.testing.assert_close(written, factor * model.blocks[0].mlp.W_out.detach(), rtol=1e-5, atol=1e-6)


def test_weights_of_zero_and_copies_have_their_directions_on_every_path():
    """Nothing is written, or all along one direction; which constant a bias adds is not asked for."""
    sizes = {"n_features": 6, "d_hidden": 3, "tied": False, "d_mlp": 5, "n_mlps": 2, "bottleneck": "residual"}
    model = ToyModel(ToyConfig(**sizes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    for path in PATHS:
        found = bottleneck(model, path)
        assert not found.write.any() and not found.read.any()
        table = found.summary()
        assert not table[["write_norm", "spill", "largest"]].to_numpy().any()
        assert not found.interference().any() and not found.circuit.S.any()
    copies = ToyModel(ToyConfig(n_features=4, d_hidden=3))
    with torch.no_grad():
        copies.W_E.copy_(torch.ones(4, 3))
    found = bottleneck(copies, "embed->unembed")
    torch.testing.assert_close(found.interference(), torch.full((4,), 9.0))
    torch.testing.assert_close(found.circuit.S, torch.tensor([12.0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(found.unit().summary()["gain"].to_list(), [1.0] * 4)


def test_a_block_that_adds_nothing_else_is_told_a_multiplier_by_a_single_row():
    """An MLP without attention before it: what it adds is its own, without a constant."""
    model = ToyModel(ToyConfig(n_features=6, d_hidden=3, tied=False, d_mlp=5, n_mlps=2, bottleneck="residual"), seed=1)
    found = bottleneck(model, "blocks.0.mlp.out->blocks.1.mlp.in", inputs=torch.ones(1, 6))
    torch.testing.assert_close(found.write, model.W_out[0].detach(), rtol=0, atol=0)


def test_an_end_alone_is_that_of_the_whole_path(make_bridge):
    model, _ = make_bridge("gpt2")
    whole = bottleneck(model, "embed->unembed", fold_norm=True)
    torch.testing.assert_close(end_of(model, "embed"), whole.write)
    torch.testing.assert_close(end_of(model, "unembed"), whole.read)
    name = "your own HookedRootModule"
    own, x = zoo.other(name), zoo.features(name)
    torch.testing.assert_close(end_of(own, "embed", x), own.W_E.detach(), rtol=0, atol=0)
    torch.testing.assert_close(end_of(own, "unembed", x), own.W_U.detach().mT, rtol=0, atol=0)


def residual_toy() -> ToyModel:
    return ToyModel(ToyConfig(n_features=6, d_hidden=3, tied=False, d_mlp=5, n_mlps=2, bottleneck="residual"), seed=1)


def test_ends_of_a_toy_with_blocks():
    model = residual_toy()
    torch.testing.assert_close(end_of(model, "embed"), model.W_E.detach(), rtol=0, atol=0)
    torch.testing.assert_close(end_of(model, "unembed"), model.W_U.detach().mT, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("scaled", "path"),
    [(0, "embed->unembed"), (0, "embed->blocks.1.mlp.in"), (1, "embed->unembed"), (1, "blocks.0.mlp.out->unembed")],
)
def test_a_block_between_that_scales_the_stream_is_refused(scaled, path):
    """Both ends are right, but what was written before is twice as large behind it."""
    model = residual_toy()
    bottleneck(model, path)
    model.blocks[scaled].hook_resid_post.add_perma_hook(lambda value, hook: 2 * value)
    with pytest.raises(ValueError, match=f"block {scaled} does more to the residual stream than to add"):
        bottleneck(model, path)


@pytest.mark.bridge
def test_an_embedding_that_is_doubled_is_written_twice_as_long(make_bridge):
    model, _ = make_bridge("llama")
    write = bottleneck(model, "embed->unembed").write
    model.embed.register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(bottleneck(model, "embed->unembed").write, 2 * write, rtol=1e-5, atol=1e-6)


def test_a_summary_of_one_feature():
    square = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    [[write_norm, read_norm, gain, *_]] = Bottleneck("embed->unembed", square, square).summary(sample=1).to_numpy()
    assert (write_norm, gain) == (read_norm, pytest.approx(write_norm**2))
    with pytest.raises(ValueError, match="sample=4: 'embed->unembed' writes 3 features"):
        Bottleneck("embed->unembed", square, square).summary(sample=4)
