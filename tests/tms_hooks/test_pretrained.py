"""Single toys as folders of Hugging Face's kind: what is read is what was saved, or it is refused."""

import json

import pytest
import torch

import tms_hooks as tms
from tms_hooks.models.toy import ToyModel

CONFIGS = {
    "plain": tms.ToyConfig(5, 2),
    "untied": tms.ToyConfig(5, 2, tied=False, hidden_bias=True, output_act="gelu"),
    "heads": tms.ToyConfig(5, 2, n_heads=2, d_head=1, head_bias=True),
    "residual": tms.ToyConfig(5, 3, bottleneck="residual", d_mlp=4, n_mlps=2, tied=False),
}


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_what_is_read_is_what_was_saved(tmp_path, cfg):
    toy = ToyModel(cfg, seed=3).double()
    toy.save_pretrained(tmp_path / "toy")
    again = ToyModel.from_pretrained(tmp_path / "toy")
    assert again.cfg == cfg
    assert again.state_dict().keys() == toy.state_dict().keys()
    x = torch.rand(4, 3, 5, dtype=torch.float64) if cfg.n_heads else torch.rand(4, 5, dtype=torch.float64)
    torch.testing.assert_close(again(x), toy(x), rtol=0, atol=0)
    names = {file.name for file in (tmp_path / "toy").iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}


def test_a_toy_replaces_a_toy_and_nothing_else(tmp_path):
    ToyModel(CONFIGS["plain"], seed=1).save_pretrained(tmp_path)
    second = ToyModel(CONFIGS["plain"], seed=2)
    second.save_pretrained(str(tmp_path))
    assert torch.equal(ToyModel.from_pretrained(str(tmp_path)).W_E, second.W_E)
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(FileExistsError, match="is no toy's"):
        second.save_pretrained(tmp_path)
    assert "GPT2" in (tmp_path / "config.json").read_text()


def test_an_activation_of_ones_own_is_refused_before_anything_is_written(tmp_path):
    def swish(x):
        return x * x.sigmoid()

    with pytest.raises(ValueError, match=r"swish is a function of your own.*run.save"):
        ToyModel(tms.ToyConfig(5, 2, hidden_act=swish)).save_pretrained(tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


class Other(ToyModel):
    """A subclass, which another class must not pass for."""


def test_a_toy_of_another_class_is_refused(tmp_path):
    Other(CONFIGS["plain"]).save_pretrained(tmp_path)
    assert isinstance(Other.from_pretrained(tmp_path), Other)
    with pytest.raises(TypeError, match=r"holds a Other: use Other.from_pretrained"):
        ToyModel.from_pretrained(tmp_path)


def test_what_is_no_toy_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is read by `tms.load`"):
        ToyModel.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder here"):
        ToyModel.from_pretrained(tmp_path / "nothing")


def test_what_was_changed_is_refused(tmp_path):
    ToyModel(CONFIGS["plain"]).save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(tms.DamagedRun, match="checksum"):
        ToyModel.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    said = json.loads(config.read_text())
    said["cfg"]["tied"] = False
    config.write_text(json.dumps(said, indent=1))
    with pytest.raises(tms.DamagedRun, match="checksum"):
        ToyModel.from_pretrained(tmp_path)
