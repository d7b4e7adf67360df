"""Single toys as folders that Hugging Face's tools know: `save_pretrained`, `from_pretrained`, `push_to_hub`.

A folder holds `config.json`, `model.safetensors` and a model card. The first is sealed: what was changed or torn since
it was written is refused, as with runs, and nothing in it is code. A run of many toys is saved by `Run.save`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tms_hooks import files, own
from tms_hooks.config import ToyConfig

FORMAT = "tms-hooks toy, version 1"
Toy = TypeVar("Toy", bound="PretrainedToy")
CONFIG, WEIGHTS, CARD = "config.json", "model", "README.md"


class PretrainedToy(ModelHubMixin):
    """What a toy has from `huggingface_hub`'s mixin, with checks; a subclass has `cfg` and `from_weights`."""

    cfg: ToyConfig

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **push: Any
    ) -> str | None:
        """Write the toy to a folder, over an earlier toy but over no other model; then push it, if that is asked for.

        Raises:
            ValueError: an activation of your own, which no file can hold.
            FileExistsError: the folder has a `config.json` of something else.
        """
        folder = Path(save_directory)
        cfg = own.plain(asdict(self.cfg))
        if lone := own.names_in(cfg):
            raise ValueError(
                f"{', '.join(lone)} is a function of your own: a toy's folder must hold no code; save the run, "
                "`run.save(path)`, and load it with `tms.load(path, using=[...])`"
            )
        if (folder / CONFIG).exists() and not _is_toy(folder / CONFIG):
            raise FileExistsError(f"{folder / CONFIG} is no toy's; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}  # type: ignore[attr-defined]
        files.write_sealed(folder / CONFIG, FORMAT, {"model": type(self).__name__, "cfg": cfg}, {WEIGHTS: weights})
        if not (folder / CARD).exists():
            files.write_whole(folder / CARD, str(_card(type(self).__name__, self.cfg)))
        return self.push_to_hub(repo_id or folder.name, **push) if push_to_hub else None

    @classmethod
    def from_pretrained(cls: type[Toy], pretrained_model_name_or_path: str | Path, **hub: Any) -> Toy:
        """A toy from its folder, or from the hub by its name, "owner/name".

        Args:
            pretrained_model_name_or_path: the folder or the name.
            hub: of a download, `revision`, `token` and others of `huggingface_hub.snapshot_download`.

        Raises:
            FileNotFoundError: neither a toy's folder nor a name that the hub gives.
            DamagedRun: a ValueError: what is there is not what was written, or of another version.
            TypeError: a toy of another class than this one.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            return cls._of_folder(folder)
        with TemporaryDirectory() as scratch:
            try:
                snapshot_download(str(pretrained_model_name_or_path), local_dir=scratch, **hub)
            except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
                why = str(error).strip().splitlines()[0]
                raise FileNotFoundError(
                    f"{folder} is no folder here, and the hub does not give it ({why}); `save_pretrained` writes one"
                ) from error
            return cls._of_folder(Path(scratch))

    @classmethod
    def _of_folder(cls: type[Toy], folder: Path) -> Toy:
        if not (folder / CONFIG).exists():
            raise FileNotFoundError(
                f"{folder} has no {CONFIG}: `save_pretrained` writes one; the folder of a run is read by `tms.load`"
            )
        about, parts = files.read_sealed(folder / CONFIG, FORMAT)
        if about["model"] != cls.__name__:
            raise TypeError(f"{folder} holds a {about['model']}: use {about['model']}.from_pretrained")
        try:
            toy: Toy = cls.from_weights(  # type: ignore[attr-defined]
                ToyConfig(**about["cfg"]), parts[WEIGHTS]
            )
            return toy
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise files.DamagedRun(f"{folder / CONFIG} describes no toy: {type(error).__name__}: {error}") from error


def _is_toy(path: Path) -> bool:
    try:
        return str(json.loads(path.read_text()).get("format", "")).startswith("tms-hooks toy")
    except (OSError, ValueError, AttributeError):
        return False


def _card(model: str, cfg: ToyConfig) -> ModelCard:
    """What a folder says of itself."""
    return ModelCard(
        "---\nlibrary_name: tms-hooks\ntags: [superposition, toy-model]\n---\n\n"
        f"A toy model of superposition: {cfg.n_features} features in {cfg.d_hidden} dimensions.\n\n"
        f"```python\nfrom tms_hooks import {model}\n\ntoy = {model}.from_pretrained(...)  # this folder\n"
        "out, cache = toy.run_with_cache(x)\n```\n"
    )
