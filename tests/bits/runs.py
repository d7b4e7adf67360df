"""What random configurations train to, on both engines: checksums of weights, losses and history."""

import hashlib
import random
from typing import Any

import numpy as np

import tms_hooks as tms

CONFIGURATIONS = 64
OLD_NAMES = {"head_loss": "qk_loss"}
"""What a record calls arrays that have another name by now."""
RECORDED = ("loss", "grad_norm", "feature_norm", "head_loss", "W_E", "omega")
"""What the history held when the record was made."""


def draw(number: int) -> dict[str, Any]:
    """The arguments of `train` for one configuration; a pure function of its number."""
    choose = random.Random(number)
    n, m = choose.randint(2, 9), choose.randint(1, 7)
    heads = choose.choice((0, 0, 0, 1, 2))
    d_mlp = choose.choice((None, None, None, None, 5)) if not heads else None
    tied = choose.random() < 0.5
    output_act = choose.choice(("identity", "relu", "relu", "gelu", "softmax"))
    norms = (False, False, True) if tied else (False, False, True, "write", "read")
    unit_norm = False if d_mlp else choose.choice(norms)
    cfg = tms.ToyConfig(
        n_features=n,
        d_hidden=m,
        tied=tied,
        hidden_bias=choose.random() < 0.3,
        output_bias=choose.random() < 0.7,
        hidden_act=choose.choice(("identity", "identity", "identity", "relu", "gelu", "softmax")),
        output_act=output_act,
        unit_norm=unit_norm,
        n_heads=heads,
        d_head=choose.choice((None, 1, 2)) if heads else None,
        d_mlp=d_mlp,
    )
    lr = choose.choice((1e-3, 1e-2, 0.1))
    schedule = choose.choice(({}, {"schedule": "cosine"}, {"schedule": "linear", "warmup": 0.2}))
    optimizer = choose.choice((tms.Adam, tms.Adam, tms.AdamW, tms.SGD, tms.RMSprop))(lr=lr, **schedule)
    p = choose.choice((0.02, 0.057, 0.3, 1.0))
    even = n - n % 2 or 2
    sources = [
        lambda: tms.SparseUniform(n_features=n, feature_probability=p),
        lambda: tms.SparseUniform(n_features=n, feature_probability=[p * (i + 1) / n for i in range(n)]),
        lambda: tms.OneHot(n_features=n),
        lambda: tms.KHot(n_features=n, k=min(2, n), values=choose.choice(("binary", "uniform"))),
        lambda: tms.RandomPoints(n_features=n, n_points=7, k=min(2, n)),
        lambda: tms.Copula(n_features=n, feature_probability=min(p, 0.9), rho=0.2),
    ]
    if n == even:
        sources += [
            lambda: tms.CorrelatedGroups(n_features=n, feature_probability=p),
            lambda: tms.AnticorrelatedGroups(n_features=n, feature_probability=p / 2),
        ]
    settings: dict[str, Any] = {
        "cfg": cfg,
        "data": choose.choice(sources)(),
        "seeds": choose.choice((range(1), range(3), (7, 2**40 + 1))),
        "steps": choose.choice((1, 17, 40)),
        "batch_size": choose.choice((1, 33, 256)),
        "optimizer": optimizer,
        "importance": choose.choice((None, [0.9**i for i in range(n)])),
        "record_every": choose.choice((1, 10)),
        "dtype": choose.choice(("float32", "float32", "float64")),
    }
    if output_act == "softmax" and choose.random() < 0.5:
        settings["loss"] = "cross_entropy"
    if heads:
        settings["qk_pairs"] = [[(0, 1)], [(1, 0), (0, 0)]][:heads]
        settings["qk_weight"] = choose.choice((1.0, 0.1))
        if choose.random() < 0.5:
            settings["stages"] = ("representation", "heads")
    elif choose.random() < 0.3:
        settings["batch_size"] = None  # the whole of a finite data set
    return settings


def checksums() -> dict[str, str]:
    """Name of every array of every run -> checksum of its bits; a refusal by its kind."""
    found = {}
    for number in range(CONFIGURATIONS):
        for engine in ("torch", "fused"):
            found |= {f"{number:02}.{engine}.{name}": value for name, value in _arrays(number, engine).items()}
    return found


def _arrays(number: int, engine: str) -> dict[str, str]:
    try:
        run = tms.train(engine=engine, progress=False, **draw(number))
    except ValueError as error:
        if "targets sum to" in str(error):
            return {}  # trained when the record was made, and taken out of it
        if "cannot run this" not in str(error):
            raise
        return {"refused": "by this engine"}
    arrays = {f"weights.{name}": w.numpy() for name, w in run.weights.items()}
    arrays |= {f"history.{OLD_NAMES.get(name, name)}": run.history[name].values for name in RECORDED}
    arrays |= {"final_loss": run.final_loss.numpy(), "final_feature_loss": run.final_feature_loss.numpy()}
    return {name: checksum(array) for name, array in arrays.items()}


def checksum(array: np.ndarray) -> str:
    """Of an array's type, shape and bits."""
    array = np.ascontiguousarray(array)
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()[:16]
