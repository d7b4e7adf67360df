"""What a toy model is made of: a frozen, validated description.

A toy squeezes many features through few hidden dimensions. Every trait of the model that studies of superposition vary
is a switch here. The data say what goes in, the task says what is to come out, and `train` says how it is learned.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from tms_hooks.errors import check_at_least_one, check_not_negative, check_whole, choice_error, make_plain
from tms_hooks.own import name_of

Activation = Literal["identity", "relu", "gelu", "softmax"]
OwnActivation = Callable[[Tensor], Tensor]
BottleneckPath = Literal["embed->unembed", "embed->mlp.in", "mlp.out->unembed", "residual"]
UnitNorm = Literal["write", "read"]
Scale = Literal["before", "after"]
Initialization = Literal["xavier", "linear", "normal"]


@dataclass(frozen=True)
class ToyConfig:
    """Architecture of a toy model of superposition.

    The plain toy is `x' = output_act(W_U^T h + b_U)`, `h = hidden_act(W_E^T x + b_hidden)`
    (Elhage et al. 2022, "Toy Models of Superposition"; there `W = W_E^T` and tied).

    Args:
        n_features: number of input features; to TransformerLens's tools, the size of the vocabulary.
        d_hidden: width of the bottleneck.
        tied: `W_U` is the transpose of `W_E`: one Parameter. "embed->mlp.in" has no `W_U` to tie.
        hidden_bias, output_bias: add `b_hidden` before the hidden activation, `b_U` before the output activation.
        hidden_act, output_act: "identity", "relu", "gelu" (exact, erf), "softmax" (over the last axis), or a function
            of your own such as `torch.tanh`, which gives a tensor of the same shape.
        unit_norm: True gives every feature direction norm 1, and one learned `scale` in front of the output bias;
            "write" or "read" (untied only) does so to the rows of `W_E` only, or to the columns of `W_U` only.
        scale: whether that scale stands "before" the output bias and activation, or "after" both: it then multiplies
            what the activation gives.
        n_heads: pseudo-attention heads that score pairs of tokens by `h_query W_Q W_K^T h_key`. Inputs then have a
            position axis.
        d_head: rank of each head's QK circuit; `d_hidden` if not given. It is filled in, as is `bottleneck`: to change
            `d_hidden`, `n_heads` or `d_mlp` with `dataclasses.replace`, give them too (None: fill in anew).
        head_bias: add `b_Q` to a head's queries and `b_K` to its keys, as most transformers do.
        d_mlp: width of an MLP with ReLU and no biases.
        n_mlps: how many of them stand one after the other, each in a block of its own; "residual" only, without heads.
        d_out: number of outputs; one per feature if not given. Other numbers have no transpose to tie: untied only.
        bottleneck: where the hidden layer sits. "embed->mlp.in" (the default with an MLP):
            features -> hidden -> MLP -> features. "mlp.out->unembed": features -> embed -> MLP -> hidden -> features.
            "embed->unembed" (the default without) has no MLP. "residual": features -> hidden -> features, and the
            hidden layer is a residual stream, to which each MLP adds what it makes of it.
        init: what each matrix begins with. "xavier": normal, of variance 2 / (fan-in + fan-out); "normal": normal, of
            standard deviation `init_std`, which only this has; "linear": as `torch.nn.Linear`, uniform within
            1 / sqrt(fan-in), biases too, which else begin at 0. The scale begins at 1.

    Raises:
        ValueError: a value outside its range, or switches that exclude each other.
    """

    n_features: int
    d_hidden: int
    _: KW_ONLY
    tied: bool = True
    hidden_bias: bool = False
    output_bias: bool = True
    hidden_act: Activation | OwnActivation = "identity"
    output_act: Activation | OwnActivation = "relu"
    unit_norm: bool | UnitNorm = False
    scale: Scale = "before"
    n_heads: int = 0
    d_head: int | None = None
    head_bias: bool = False
    d_mlp: int | None = None
    n_mlps: int = 1
    d_out: int | None = None
    bottleneck: BottleneckPath | None = None
    init: Initialization = "xavier"
    init_std: float | None = None

    def __post_init__(self) -> None:
        """Validate, and fill in `d_head` and `bottleneck`."""
        make_plain(self)
        for name in ("n_features", "d_hidden", "d_out", "n_heads", "d_head", "d_mlp", "n_mlps"):
            if (value := getattr(self, name)) is not None:
                check_whole(**{name: value})
                object.__setattr__(self, name, int(value))  # numpy's integers as Python's
        check_at_least_one(n_features=self.n_features, d_hidden=self.d_hidden, d_out=self.n_outputs)
        known = {"hidden_act": Activation, "output_act": Activation, "scale": Scale, "init": Initialization}
        for name, choices in known.items():
            if callable(value := getattr(self, name)) and choices is Activation:
                if isinstance(value, type):
                    raise ValueError(
                        f"{name}={value!r} is a class: must be a function, such as torch.nn.functional.silu"
                    )
                name_of(value)
            elif value not in get_args(choices):
                raise choice_error(name, value, get_args(choices))
        if self.n_heads < 0:
            raise ValueError(f"n_heads={self.n_heads}: must be 0 (no pseudo-attention) or more")
        if self.d_head is not None and (self.n_heads == 0 or self.d_head < 1):
            raise ValueError(
                f"d_head={self.d_head} with n_heads={self.n_heads}: d_head must be at least 1 and needs n_heads >= 1"
            )
        if self.n_heads and self.d_head is None:
            object.__setattr__(self, "d_head", self.d_hidden)
        if self.head_bias and not self.n_heads:
            raise ValueError("head_bias=True with n_heads=0: the biases are those of heads; give n_heads")
        self._check_mlp()
        self._check_init()
        if self.n_outputs != self.n_features and self.tied and self.bottleneck != "embed->mlp.in":
            raise ValueError(
                f"d_out={self.d_out} with tied=True: the transpose of W_E has {self.n_features} outputs; use tied=False"
            )
        if self.unit_norm == "read" and self.bottleneck == "embed->mlp.in":
            raise ValueError("unit_norm='read' with bottleneck='embed->mlp.in': it has no W_U; use 'write' or True")
        if self.unit_norm not in (False, True, *get_args(UnitNorm)):
            raise choice_error("unit_norm", self.unit_norm, ("False", "True", *get_args(UnitNorm)))
        if self.scale == "after" and not self.unit_norm:
            raise ValueError("scale='after' with unit_norm=False: there is no scale; use unit_norm=True")
        if self.unit_norm in get_args(UnitNorm) and self.tied:
            raise ValueError(
                f"unit_norm={self.unit_norm!r} with tied=True: reads and writes are one matrix; "
                "use unit_norm=True or tied=False"
            )

    def _check_mlp(self) -> None:
        if self.d_mlp is not None and self.d_mlp < 1:
            raise ValueError(f"d_mlp={self.d_mlp}: must be at least 1, or None for no MLP")
        if self.bottleneck is None:
            object.__setattr__(self, "bottleneck", "embed->mlp.in" if self.d_mlp else "embed->unembed")
        if self.bottleneck not in get_args(BottleneckPath):
            raise choice_error("bottleneck", self.bottleneck, get_args(BottleneckPath))
        if (self.d_mlp is None) != (self.bottleneck == "embed->unembed"):
            raise ValueError(
                f"bottleneck={self.bottleneck!r} with d_mlp={self.d_mlp}: "
                "an MLP needs d_mlp, and d_mlp needs an MLP bottleneck"
            )

        if self.n_mlps < 1 or (self.n_mlps > 1 and (self.bottleneck != "residual" or self.n_heads)):
            raise ValueError(
                f"n_mlps={self.n_mlps} with bottleneck={self.bottleneck!r}, n_heads={self.n_heads}: "
                "must be 1, or more with bottleneck='residual' and no heads"
            )

    def _check_init(self) -> None:
        if (self.init == "normal") != (self.init_std is not None):
            raise ValueError(
                f"init_std={self.init_std} with init={self.init!r}: the standard deviation belongs to init='normal', "
                "which needs it; give both or neither, for example init='normal', init_std=0.02"
            )
        if self.init_std is not None:
            check_not_negative(init_std=self.init_std)
            object.__setattr__(self, "init_std", float(self.init_std))

    # TransformerLens's own tools ask a config for these: whether heads share keys, where its sweeps collect, and sizes.

    n_key_value_heads: ClassVar[None] = None
    device: ClassVar[str] = "cpu"

    @property
    def n_outputs(self) -> int:
        """Number of outputs: `d_out`, or one per feature."""
        return self.n_features if self.d_out is None else self.d_out

    @property
    def loss_axis(self) -> str:
        """What has a loss of its own: each "feature", or each "output" where outputs are not the features."""
        return "feature" if self.n_outputs == self.n_features else "output"

    @property
    def n_layers(self) -> int:
        """Number of blocks: one for each MLP, or for the heads where there is none."""
        return self.n_mlps if self.d_mlp else int(self.n_heads > 0)

    @property
    def d_model(self) -> int:
        """TransformerLens's name for `d_hidden`."""
        return self.d_hidden

    @property
    def d_vocab(self) -> int:
        """TransformerLens's name for `n_features`."""
        return self.n_features

    @property
    def d_vocab_out(self) -> int:
        """TransformerLens's name for `n_outputs`."""
        return self.n_outputs
