"""Claims whose outcome is planned, in a module that worker processes can import: each notes when it was measured."""

import os
import signal
import time
from pathlib import Path

import plotly.graph_objects as go

from tms_hooks.claims import Claim, Part, Verdict

NOTES = "TMS_PLANNED_CLAIMS"
"""Environment variable: the file where measurements are noted."""
PART = {"measured": "The share", "statistic": 0.8, "interval": (0.7, 0.9), "n": 40}
VERDICT = {"n_models": 40, "controls": {"untrained": 0.1}, "detail": "More."}
SIZE = "Size: 3 or 30. Controls: untrained."


def verdict(**changes) -> Verdict:
    """Of one part that holds, if a claim needs it above 1/2; changes are those of the part or of the verdict."""
    part = PART | {name: changes.pop(name) for name in list(changes) if name in Part.__dataclass_fields__}
    figures = {"figures": (("A caption.", go.Figure(go.Bar(x=["a"], y=[1.0]))),)}
    return Verdict(parts={"all": Part(**part)}, **VERDICT | figures | changes)


def note(what: str) -> None:
    with Path(os.environ[NOTES]).open("a") as file:
        file.write(f"{what}\n")


def noted() -> list[str]:
    path = Path(os.environ[NOTES])
    return path.read_text().split() if path.exists() else []


def holds(n_models: int) -> Verdict:
    """It holds.

    Statistic: a share. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: untrained.
    """
    note(f"holds:{n_models}")
    return verdict(n_models=n_models)


def one_thread(n_models: int) -> Verdict:
    """Sums are not shared out.

    Statistic: threads. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: none.
    """
    import torch

    return verdict(statistic=float(torch.get_num_threads()))


def hears_ctrl_c(n_models: int) -> Verdict:
    """A terminal sends Ctrl-C to every process; a training that heard it would end early.

    Statistic: none. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: none.
    """
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    return verdict()


def trained(n_models: int) -> Verdict:
    """What is trained.

    Statistic: none. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: the norm of all weights.
    """
    from tms_hooks import SparseUniform, ToyConfig
    from tms_hooks.claims import lab

    run = lab.train_toys(ToyConfig(n_features=3, d_hidden=2), SparseUniform(3, 0.5), n_models, steps=5)
    return verdict(controls={"norm": float(run.W_E.norm())})


def divides_by_zero(n_models: int) -> Verdict:
    """It fails.

    Statistic: none. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: none.
    """
    return verdict(statistic=1 / (n_models * 0))


def dies(n_models: int) -> Verdict:
    """Its process ends.

    Statistic: none. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: none.
    """
    os._exit(9)


def lacks_network(n_models: int) -> Verdict:
    """It needs a download.

    Statistic: none. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: none.
    """
    raise ConnectionError("not here")


def lacks_package(n_models: int) -> Verdict:
    """It needs a package.

    Statistic: none. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: none.
    """
    raise ModuleNotFoundError("not here")


def never_ends(n_models: int) -> Verdict:
    """It goes on and on.

    Statistic: none. Threshold: above 1/2. Null: none. Size: 3 or 30. Controls: none.
    """
    note(f"never_ends:{os.getpid()}")
    while True:
        time.sleep(0.1)


def planned(measure, name: str = "a") -> Claim:
    return Claim(name, "H", 3, 30, measure)


def decided(found: Verdict, side: str = "above", threshold: float = 0.5, null: str = "none") -> Verdict:
    """Held against a claim that needs the only part of it on this side."""

    def measure(n_models: int) -> Verdict:
        raise AssertionError("nobody runs it")

    measure.__doc__ = f"It is so.\n\nStatistic: a share. Threshold: {side} {threshold}. Null: {null}. {SIZE}"
    return planned(measure).decide(found)
