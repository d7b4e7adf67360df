"""Claims of `tms_hooks.claims.optimizers`, each in a world where it holds and in one where it is false."""

import pandas as pd
from worlds import MODELS, outcome_of

from tms_hooks.claims import optimizers


def test_optimizer_geometry():
    outcome = outcome_of("optimizer-geometry")

    def judge(shares: dict[str, float], best_lr: float = 0.1):
        rows = [
            (name, lr, 0.0, model, 1.0, "pentagon", *(lr == best_lr and model % 10 < 10 * share,) * 3)
            for name, share in shares.items()
            for lr in (0.01, 0.1)
            for model in range(2 * MODELS)
        ]
        columns = ["optimizer", "lr", "momentum", "model", "loss", "geometry"]
        table = pd.DataFrame(rows, columns=[*columns, *(f"superposes {cut}" for cut in (0.3, 0.5, 0.7))])
        return optimizers.judge_optimizers(table)

    adaptive = {kind.__name__: 1.0 for kind in optimizers.ADAPTIVE}
    found = judge(adaptive | {"SGD": 0.0})
    assert outcome(found) == "supported"
    assert found.controls["best learning rate, Adam"] == 0.1
    assert outcome(judge(adaptive | {"SGD": 1.0})) == "refuted"
    assert outcome(judge(adaptive | {"SGD": 0.0, "RMSprop": 0.0})) == "refuted"
    assert outcome(judge(adaptive | {"SGD": 0.5})) == "inconclusive"
