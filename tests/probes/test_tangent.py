"""Tangent spaces: the Jacobian by finite differences and by hand, its decomposition, angles on known subspaces."""

import math
from typing import Any

import pytest
import torch
from transformer_lens.hook_points import HookPoint

import tms_hooks as tms
from probes.activations import collect_activations
from probes.hooked import temporary_hooks
from probes.tangent import TangentSpace, tangent_space
from probes.transformers import load_transformer
from tests.probes import zoo


@pytest.fixture
def case(subject: Any) -> tuple[Any, Any, str, str]:
    """Model in float64, inputs, an earlier and a later hook."""
    inputs = subject.inputs.double() if subject.inputs.is_floating_point() else subject.inputs
    return subject.model.to(torch.float64), inputs, subject.early, subject.late


def at(model: Any, inputs: Any, hook: str) -> torch.Tensor:
    value = collect_activations(model, inputs, hook)[hook]
    return value if value.ndim == 2 else value[:, -1].flatten(1)


def moved_by(model: Any, inputs: Any, hook: str, out_hook: str, step: torch.Tensor) -> torch.Tensor:
    """The later activation with the earlier one moved by `step` at the last position."""

    def add(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        part = value if value.ndim == 2 else value[:, -1]
        part += step.view(part.shape[1:])
        return value

    with temporary_hooks(model, [(hook, add)]):
        return at(model, inputs, out_hook)


def test_jacobian_by_finite_differences(case: Any) -> None:
    model, inputs, hook, out_hook = case
    space = tangent_space(model, inputs, hook, out_hook, batch_size=3)
    step = torch.randn(space.jacobian.shape[2], generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-6
    difference = moved_by(model, inputs, hook, out_hook, step) - moved_by(model, inputs, hook, out_hook, -step)
    torch.testing.assert_close(space.jacobian @ step, difference / 2, atol=1e-13, rtol=1e-6)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_svd_rebuilds_it_with_orthonormal_rows(case: Any) -> None:
    model, inputs, hook, out_hook = case
    space = tangent_space(model, inputs, hook, out_hook)
    rebuilt = space.out_directions.mT @ (space.singular_values[..., None] * space.in_directions)
    torch.testing.assert_close(rebuilt, space.jacobian)
    eye = torch.eye(space.in_directions.shape[1], dtype=torch.float64).expand(len(inputs), -1, -1)
    torch.testing.assert_close(space.in_directions @ space.in_directions.mT, eye)
    assert (space.singular_values.diff() <= 0).all()


def test_a_toy_by_hand() -> None:
    # x' = relu(W_E h): where the ReLU is on, the Jacobian with respect to h has the rows of W_E, elsewhere zeros
    model = tms.ToyModel(tms.ToyConfig(n_features=3, d_hidden=2, output_bias=False)).double()
    with torch.no_grad():
        model.W_E.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    for space in (
        tangent_space(model, torch.tensor([[1.0, 1.0, 0.0]]).double(), "hook_hidden"),
        tangent_space(model, torch.tensor([[1.0, 1.0, 0.0]]).double(), "hook_hidden", "hook_out"),
    ):
        torch.testing.assert_close(space.jacobian[0], torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).double())
        torch.testing.assert_close(space.singular_values[0], torch.tensor([2.0, 1.0]).double())
        angles = space.angles(torch.tensor([[3.0, 0.0], [0.0, -1.0], [1.0, 1.0], [1.0, math.sqrt(3)]]), k=1)
        expected = torch.tensor([[0.0, math.pi / 2, math.pi / 4, math.pi / 3]]).double()
        torch.testing.assert_close(angles, expected)


def test_the_rank_of_a_jacobian_ends_at_its_rounding() -> None:
    """A singular value counts above s_1 eps times the longer side, as in numpy's matrix_rank."""
    for small, rank in ((50, 1), (200, 2)):
        jacobian = torch.zeros(1, 100, 2, dtype=torch.float64)
        jacobian[0, 0, 0], jacobian[0, 1, 1] = 1.0, small * torch.finfo(torch.float64).eps
        assert torch.linalg.matrix_rank(jacobian[0]) == rank
        space = TangentSpace.of(jacobian)
        space.angles(torch.eye(2), k=rank)
        with pytest.raises(ValueError, match=f"has rank {rank}; choose k from 1 to that"):
            space.angles(torch.eye(2), k=rank + 1)


def test_a_bridges_skip_connection_is_the_identity() -> None:
    model = load_transformer("tiny").double()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.zero_()
            block.mlp.W_out.zero_()
    space = tangent_space(model, torch.tensor([[1, 2]]), "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post")
    torch.testing.assert_close(space.jacobian[0], torch.eye(64).double())


@pytest.mark.bridge
def test_axes_go_by_their_names() -> None:
    """The heads of a pattern are no positions: at one position there are all heads, and all keys."""
    model, tokens = load_transformer("tiny"), torch.tensor([[1, 2, 3, 4]])
    hook, out_hook = "blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern"
    space = tangent_space(model, tokens, hook, out_hook, pos=1, out_pos=3)
    assert (space.in_axes, space.out_axes) == ({"unit": 64}, {"head": 4, "unit": 4})
    step = torch.randn(64, generator=torch.Generator().manual_seed(0)).double() * 1e-6

    def pattern(sign: int) -> torch.Tensor:
        moved = torch.zeros(1, 4, 64).double()
        moved[:, 1] = sign * step
        with temporary_hooks(model, [(hook, lambda value, hook: value + moved)]):
            return collect_activations(model, tokens, out_hook)[out_hook]

    model.double()
    space = tangent_space(model, tokens, hook, out_hook, pos=1, out_pos=3)
    by_hand = (pattern(1) - pattern(-1))[:, :, 3].flatten(1) / 2  # query 3: batch head key
    torch.testing.assert_close(space.jacobian @ step, by_hand, atol=1e-13, rtol=1e-5)
    heads = tangent_space(model, tokens, "blocks.0.attn.hook_z", None)
    assert (heads.in_axes, heads.out_axes) == ({"head": 4, "unit": 16}, {"unit": 101})


@pytest.mark.bridge
@pytest.mark.parametrize("hook", ["blocks.0.attn.q_norm.hook_out", "blocks.0.attn.hook_q_normed"])
def test_a_bridge_says_where_its_positions_are(hook: str) -> None:
    """Qwen3 normalizes queries as "batch head pos unit"; the first token's move no later one's, head by head."""
    model, tokens = zoo.build("qwen3"), zoo.tokens()
    space = tangent_space(model, tokens, hook, "blocks.0.attn.hook_pattern", pos=3, out_pos=3)
    assert (space.in_axes, space.out_axes) == ({"head": 4, "unit": 8}, {"head": 4, "unit": 5})
    blocks = space.jacobian.unflatten(1, (4, 5)).unflatten(3, (4, 8)).abs().sum((0, 2, 4))
    assert blocks.count_nonzero() == 4 and blocks.diagonal().all()
    with pytest.raises(ValueError, match="does not depend on"):
        tangent_space(model, tokens, hook, "blocks.0.attn.hook_pattern", pos=2, out_pos=3)


@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore:A forward hook edited")  # by TransformerLens, of rounding
def test_rows_that_are_no_examples_are_refused() -> None:
    """OPT's second norm sees all tokens of all examples as one list."""
    with pytest.raises(ValueError, match=r"has 10 rows, 'the output' has 2: .*keep the examples apart"):
        tangent_space(zoo.build("opt"), zoo.tokens(2), "blocks.0.ln2.hook_normalized")


def test_half_precision_is_decomposed_in_single() -> None:
    model = tms.ToyModel(tms.ToyConfig(n_features=4, d_hidden=2)).bfloat16()
    space = tangent_space(model, torch.eye(4).bfloat16(), "hook_hidden", "hook_unembed")
    assert space.in_directions.dtype == torch.float32
    torch.testing.assert_close(space.jacobian, model.W_E.detach().float().expand(4, -1, -1), rtol=0, atol=0)
    assert space.angles(torch.eye(2), k=2).max() < 1e-3


def test_a_position_that_is_not_there(case: Any) -> None:
    model, inputs, hook, out_hook = case
    with pytest.raises(IndexError, match=rf"position 9 of '{hook}': must be from 0 to {inputs.shape[1] - 1}"):
        tangent_space(model, inputs, hook, out_hook, pos=9)
    with pytest.raises(IndexError, match=f"position -9 of '{out_hook}'"):
        tangent_space(model, inputs, hook, out_hook, out_pos=-9)


def test_angle_is_exact_near_zero_and_free_of_scale() -> None:
    eye = torch.eye(3, dtype=torch.float64)[None]
    space = TangentSpace(eye, torch.ones(1, 3, dtype=torch.float64), eye, eye, {"unit": 3}, {"unit": 3})
    directions = torch.tensor([[1.0, 0.0, 1e-9], [5.0, 0.0, 5e-9]], dtype=torch.float64)
    torch.testing.assert_close(space.angles(directions, k=2), torch.full((1, 2), 1e-9).double(), atol=0, rtol=1e-6)


def test_bad_input(case: Any) -> None:
    model, inputs, hook, out_hook = case
    with pytest.raises(KeyError, match="no hook 'hook_hiden'"):
        tangent_space(model, inputs, "hook_hiden", out_hook)
    with pytest.raises(ValueError, match="are both"):
        tangent_space(model, inputs, hook, hook)
    with pytest.raises(ValueError, match="does not depend on"):
        tangent_space(model, inputs, out_hook, hook)
    space = tangent_space(model, inputs, hook, out_hook)
    with pytest.raises(ValueError, match="the Jacobian has rank"):
        space.angles(torch.ones(1, space.jacobian.shape[2]), k=65)
    with pytest.raises(ValueError, match="rows of width"):
        space.angles(torch.ones(1, 3), k=1)
    with pytest.raises(ValueError, match="none of them zero"):
        space.angles(torch.zeros(1, space.jacobian.shape[2]), k=1)


@pytest.mark.bridge
def test_looking_ahead_in_a_causal_model_and_dead_hooks() -> None:
    model, tokens = load_transformer("tiny"), torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match="out_pos >= pos"):
        tangent_space(model, tokens, "hook_embed", "blocks.1.hook_resid_post", pos=2, out_pos=0)
    with pytest.raises(ValueError, match="fires in vain"):
        tangent_space(model, tokens, "blocks.0.attn.hook_attn_scores", "blocks.1.hook_resid_post")


@pytest.mark.bridge
def test_tokens_have_no_tangent_space() -> None:
    """They are whole numbers: nothing can be differentiated with respect to them."""
    with pytest.raises(ValueError, match=r"does not depend on 'embed\.hook_in'"):
        tangent_space(load_transformer("tiny"), torch.tensor([[1, 2, 3]]), "embed.hook_in", "blocks.1.hook_resid_post")


def test_of_a_jacobian_that_another_tool_has_computed(subject):
    """The same as of the model that it came from; half precision is decomposed, what is not finite is refused."""
    space = tangent_space(subject.model, subject.inputs, subject.early, subject.late)
    given = TangentSpace.of(space.jacobian)
    torch.testing.assert_close(given.in_directions, space.in_directions, rtol=0, atol=0)
    assert TangentSpace.of(space.jacobian.to(torch.bfloat16)).singular_values.dtype == torch.float32
    with pytest.raises(ValueError, match="the Jacobian is not finite"):
        TangentSpace.of(space.jacobian * torch.nan)


def test_as_many_directions_as_every_example_has() -> None:
    """One example's Jacobian has rank 2, the other's rank 1: a second direction there would be any at all."""
    space = TangentSpace.of(torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]]))
    assert space.angles(torch.eye(2), 1).shape == (2, 2)
    with pytest.raises(ValueError, match="k=2: the Jacobian has rank 1; choose k from 1 to that"):
        space.angles(torch.eye(2), 2)


def test_an_output_of_more_axes_than_have_names_is_refused() -> None:
    class Grid(zoo.OwnModel):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).reshape(len(x), 1, 2, 3)

    model = Grid()
    zoo.draw_anew(model)
    with pytest.raises(ValueError, match=r"the output has shape \(4, 1, 2, 3\): name hooks that are batch"):
        tangent_space(model, torch.rand(4, 6), "hook_hidden")


def test_a_jacobian_of_zeros_has_no_direction() -> None:
    with pytest.raises(ValueError, match="k=1: the Jacobian has rank 0"):
        TangentSpace.of(torch.zeros(1, 3, 2)).angles(torch.eye(2), 1)


def test_one_output_unit_at_a_time(case: Any) -> None:
    model, inputs, hook, out_hook = case
    one = tangent_space(model, inputs, hook, out_hook, batch_size=1)
    torch.testing.assert_close(one.jacobian, tangent_space(model, inputs, hook, out_hook).jacobian)


def test_a_model_that_mixes_the_examples_of_a_batch_is_given_one_at_a_time() -> None:
    class Centered(zoo.OwnModel):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x - x.sum(0) / 3)

    model = Centered()
    zoo.draw_anew(model)
    x = torch.rand(3, 6)
    for several in (x, x[:2]):
        with pytest.raises(ValueError, match="mixes the examples of a batch"):
            tangent_space(model, several, "hook_hidden")
    torch.testing.assert_close(tangent_space(model, x[:1], "hook_hidden").jacobian[0], model.W_U.detach().mT)


class Twice(zoo.OwnModel):
    """Its hidden layer runs two times."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_in = HookPoint()
        self.setup()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.hook_hidden(self.hook_in(x) @ self.W_E)
        return self.hook_hidden(hidden.tanh()) @ self.W_U


@pytest.mark.parametrize("hooks", [("hook_hidden", None), ("hook_in", "hook_hidden")])
def test_a_hook_that_fires_twice_has_no_jacobian_of_its_own(hooks: tuple[str, str | None]) -> None:
    model = Twice()
    zoo.draw_anew(model)
    with pytest.raises(ValueError, match=r"hook 'hook_hidden' fires more than once in a run"):
        tangent_space(model, torch.rand(2, 6), *hooks)
