import re
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens.hook_points import HookPoint

from probes.activations import TOKENS_PER_RUN, collect_activations, rows_per_run, stream_activations
from probes.transformers import load_transformer
from tms_hooks.config import ToyConfig
from tms_hooks.models.hooks import HookedRootModule
from tms_hooks.models.toy import ToyModel


def test_same_as_run_with_cache(subject, tmp_path):
    names = [subject.late, subject.early]
    model = subject.model.double()
    inputs = subject.inputs.double() if subject.inputs.is_floating_point() else subject.inputs
    _, cache = model.run_with_cache(inputs)
    for directory in (None, tmp_path):
        rows = collect_activations(model, inputs, names, batch_size=2, directory=directory)
        assert list(rows) == names
        for name in names:
            # batches of two and of five differ in the last bits
            torch.testing.assert_close(rows[name], cache[name].detach(), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.load(tmp_path / f"{subject.late}.npy"), rows[subject.late].numpy())
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("hook", "ran"), [("blocks.0.attn.hook_z", [0]), ("blocks.1.hook_resid_pre", [0, 1])])
def test_blocks_after_the_last_one_asked_for_are_not_run(tiny, hook, ran):
    blocks: list[int] = []
    for i, block in enumerate(tiny.model.blocks):
        block.mlp.register_forward_hook(lambda *_, i=i: blocks.append(i))
    rows = collect_activations(tiny.model, tiny.inputs, [hook, "blocks.0.hook_resid_pre"])
    assert blocks == ran
    torch.testing.assert_close(rows[hook], tiny.model.run_with_cache(tiny.inputs)[1][hook].detach())
    blocks.clear()
    collect_activations(tiny.model, tiny.inputs, ["hook_embed", hook])  # where that comes, its name does not say
    assert blocks == [0, 1]


def test_activations_are_copies():
    """The model here goes on to change the hooked tensor in place, as transformers do with residuals and masks."""

    class InPlace(HookedRootModule):
        def __init__(self) -> None:
            super().__init__()
            self.hook_in = HookPoint()
            self.setup()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.hook_in(x + 0).mul_(0)

    x = torch.ones(2, 3, requires_grad=True)
    [batch] = stream_activations(InPlace(), x, "hook_in")
    torch.testing.assert_close(batch["hook_in"], torch.ones(2, 3), rtol=0, atol=0)
    assert not batch["hook_in"].requires_grad


def test_stream_keeps_nothing(subject):
    stream = stream_activations(subject.model, iter([subject.inputs] * 2), subject.early)
    first = weakref.ref(next(stream)[subject.early])
    assert next(stream)[subject.early].shape[0] == 5
    assert first() is None


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_million_rows_on_disk_in_the_memory_of_a_batch(tmp_path):
    """The rows, 4 widths, are 64 MB; the process may allocate the inputs' pages and a few batches of 64 kB, no more."""
    toy = ToyModel(ToyConfig(n_features=16, d_hidden=16), seed=0)

    class Rows:
        """A million examples that are drawn when asked for."""

        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, rows: slice) -> torch.Tensor:
            return torch.arange(rows.start, min(rows.stop, len(self)))[:, None] % torch.arange(2.0, 18.0)

    def anonymous() -> int:
        """Bytes of this process that no file holds."""
        return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    collect_activations(toy, Rows()[0:9000], "hook_hidden", batch_size=8192)  # warm up
    before, seen = anonymous(), []
    rows = Rows()
    handle = toy.hook_hidden.register_forward_hook(lambda *_: seen.append(anonymous() - before))
    stored = collect_activations(toy, rows, "hook_hidden", batch_size=8192, directory=tmp_path)["hook_hidden"]
    handle.remove()
    assert stored.shape == (1_000_000, 16)
    assert (tmp_path / "hook_hidden.npy").stat().st_size == 64_000_000 + 128
    assert len(seen) == 123 and max(seen) < 16e6
    for i in (0, 8191, 8192, 999_999):
        torch.testing.assert_close(stored[i], rows[i : i + 1][0] @ toy.W_E.detach())


@pytest.mark.bridge
def test_two_names_of_one_point():
    model = load_transformer("tiny")
    names = ["blocks.0.hook_resid_pre", "blocks.0.hook_in"]
    rows = collect_activations(model, torch.tensor([[1, 2]]), names)
    torch.testing.assert_close(*rows.values(), rtol=0, atol=0)


def test_a_shape_that_changes_is_an_error(subject):
    class Shrinking:
        """Two examples of three positions, then two of two."""

        def __len__(self):
            return 4

        def __getitem__(self, rows):
            return subject.inputs[rows, : 3 if rows.start == 0 else 2]

    with pytest.raises(ValueError, match=r"for examples 2 to 3.*give inputs of one length"):
        collect_activations(subject.model, Shrinking(), subject.early, batch_size=2)


def test_prompts_of_several_lengths_are_streamed_unpadded_and_in_order(subject):
    prompts = [subject.inputs[0], subject.inputs[1], subject.inputs[2][:2], subject.inputs[3]]
    batches = list(stream_activations(subject.model, prompts, subject.late))
    assert [len(batch[subject.late]) for batch in batches] == [2, 1, 1]
    for prompt, value in zip(prompts, [row for batch in batches for row in batch[subject.late]], strict=True):
        alone = collect_activations(subject.model, prompt[None], subject.late)[subject.late]
        torch.testing.assert_close(value, alone[0])
    again = list(stream_activations(subject.model, iter([prompts[:2], prompts[2:]]), subject.late))
    assert [len(batch[subject.late]) for batch in again] == [2, 1, 1]


def test_long_prompts_share_smaller_batches():
    tokens = torch.zeros(3, TOKENS_PER_RUN // 2, dtype=torch.int64)
    assert [rows_per_run(tokens[:, :n], 64) for n in (1, 128, 129, 4096)] == [64, 64, 63, 2]
    assert rows_per_run(torch.zeros(3, 20_000), 64) == 64  # features, not tokens


def test_bad_requests(subject):
    with pytest.raises(KeyError, match="did you mean"):
        collect_activations(subject.model, subject.inputs, subject.early + "x")
    with pytest.raises(ValueError, match="inputs is empty"):
        collect_activations(subject.model, subject.inputs[:0], subject.early)
    with pytest.raises(TypeError, match="stream_activations"):
        collect_activations(subject.model, iter([subject.inputs]), subject.early)


@pytest.mark.bridge
def test_a_silent_hook_is_an_error():
    with pytest.raises(ValueError, match="hook_hidden_states' does not fire"):
        collect_activations(load_transformer("tiny"), torch.tensor([[1]]), "blocks.0.attn.hook_hidden_states")
