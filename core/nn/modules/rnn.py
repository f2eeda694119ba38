"""Recurrent layers (RNN, LSTM, GRU) and their cells, with PyTorch's parameter names."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

from ...autograd.mode import mode
from ...errors import ArgumentError, OptionError, ShapeError
from ...tensors import Parameter, Tensor
from .. import init
from ..functional.recurrent import recurrent, recurrent_step
from ..utils.rnn import PackedSequence
from .linear import new_parameter
from .module import Module

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class RNNBase(Module):
    """What RNN, LSTM and GRU share: parameters, checks, and the run over time.

    Args:
        mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU".
        input_size, hidden_size: features of the input and of the hidden state.
        num_layers: recurrent layers on top of each other.
        bias: whether there are biases.
        batch_first: input and output are (N, T, ...) instead of (T, N, ...).
        dropout: probability of zeroing elements of the output of every layer but the last.
        bidirectional: a second set of layers goes from the last step to the first.
        proj_size: an LSTM's hidden state is projected to this size; 0 for no projection.

    Raises:
        ValueError: a setting out of range.
        TypeError: `hidden_size` is no integer.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        _check_settings(type(self).__name__, mode, hidden_size, num_layers, dropout, proj_size)
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = float(dropout), bidirectional, proj_size
        gates, self._all_weights = _GATES[mode] * hidden_size, []
        output, directions = proj_size or hidden_size, 2 if bidirectional else 1
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else output * directions
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (gates, inputs),
                "weight_hh": (gates, output),
            }
            if bias:
                shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
            if proj_size:
                shapes["weight_hr"] = (proj_size, hidden_size)
            for suffix in ("", "_reverse")[:directions]:
                names = {f"{kind}_l{layer}{suffix}": shape for kind, shape in shapes.items()}
                self._all_weights.append(list(names))
                for name, shape in names.items():
                    self.register_parameter(name, new_parameter(*shape, dtype=dtype))
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Draw all parameters again, uniformly within 1 / sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing to do: every product packs its weights itself."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run over all steps.

        Args:
            input: (T, N, I) (`batch_first`: (N, T, I)), one sequence (T, I), or a PackedSequence.
            hx: initial state (layers * directions, N, H), an LSTM's also (..., cells); zeros if
                not given. Without N for one sequence.

        Returns:
            The output of the last layer for every step, and the state after the last step.

        Raises:
            ValueError: an input with another number of dimensions, or another dtype.
            RuntimeError: sizes of input or state that do not fit.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        if input.ndim not in (2, 3):
            raise ArgumentError(
                f"{type(self).__name__}: expected input of 2 or 3 dimensions, came "
                f"{tuple(input.shape)}"
            )
        single = input.ndim == 2
        states = self._states(hx, 2 if single else 3)
        if single:
            x = input.unsqueeze(1)
            states = None if states is None else tuple(s.unsqueeze(1) for s in states)
        else:
            x = input.transpose(0, 1) if self.batch_first else input
        self._check(x, states, x.shape[1])
        if x.shape[0] == 0:
            raise ShapeError(f"{type(self).__name__}: expected at least one step, came none")
        y, finals = self._run(x, states, None)
        if single:
            y, finals = y.squeeze(1), tuple(s.squeeze(1) for s in finals)
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, self._hidden(finals)

    def _forward_packed(self, input: PackedSequence, hx: Any) -> Any:
        sizes = tuple(int(n) for n in input.batch_sizes._array)
        states = self._states(hx, 3)
        self._check(input.data, states, sizes[0])
        if states is not None and input.sorted_indices is not None:
            states = tuple(s.index_select(1, input.sorted_indices) for s in states)
        y, finals = self._run(input.data, states, sizes)
        if input.unsorted_indices is not None:
            finals = tuple(s.index_select(1, input.unsorted_indices) for s in finals)
        packed = PackedSequence(y, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return packed, self._hidden(finals)

    def _run(self, x: Tensor, states: Any, sizes: tuple[int, ...] | None) -> Any:
        weights = [
            [getattr(self, name) for name in names] for names in self._all_weights
        ]  # ih, hh, (biases), (hr)
        full: list[list[Any]] = [
            [
                *w[:2],
                *(w[2:4] if self.bias else (None, None)),
                w[-1] if self.proj_size else None,
            ]
            for w in weights
        ]
        step = 2 if self.bidirectional else 1
        layers = [full[i : i + step] for i in range(0, len(full), step)]
        return recurrent(self.mode.lower(), x, states, layers, self.dropout, self.training, sizes)

    def _states(self, hx: Any, dims: int) -> tuple[Tensor, ...] | None:
        """The initial states as a tuple, with `dims` dimensions each."""
        if hx is None:
            return None
        states = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        wanted = 2 if self.mode == "LSTM" else 1
        if len(states) != wanted:
            raise ArgumentError(
                f"{type(self).__name__}: expected {'(h, c)' if wanted == 2 else 'one tensor'} as "
                f"initial state, came {len(states)} tensor(s)"
            )
        if any(s.ndim != dims for s in states):
            came = ", ".join(str(tuple(s.shape)) for s in states)
            raise ShapeError(
                f"{type(self).__name__}: for input of {dims} dimensions expected an initial state "
                f"of {dims} dimensions, came {came}"
            )
        return states

    def _check(self, x: Tensor, states: tuple[Tensor, ...] | None, n: int) -> None:
        name, weight = type(self).__name__, getattr(self, self._all_weights[0][0])
        if x.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name}: expected {self.input_size} features, came input {tuple(x.shape)}"
            )
        if x.dtype != weight.dtype and mode.autocast is None:
            raise OptionError(
                f"{name}: input is {x.dtype}, the weights are {weight.dtype}; convert the input "
                f"by .to({weight.dtype}) or the model"
            )
        for i, state in enumerate(states or ()):
            size = self.hidden_size if i else (self.proj_size or self.hidden_size)
            shape = (len(self._all_weights), n, size)
            if tuple(state.shape) != shape:
                raise ShapeError(
                    f"{name}: expected initial state {i} of shape {shape}, came "
                    f"{tuple(state.shape)}"
                )
            if state.dtype != x.dtype and mode.autocast is None:
                raise ShapeError(f"{name}: input is {x.dtype}, initial state {state.dtype}")

    def _hidden(self, finals: tuple[Tensor, ...]) -> Any:
        return finals if self.mode == "LSTM" else finals[0]

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        shown = (
            ("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False),
            ("dropout", 0), ("bidirectional", False),
        )  # fmt: skip
        for name, default in shown:
            value = getattr(self, name)
            if value != default:
                text += f", {name}={value}"
        return text


class RNN(RNNBase):
    """Elman network: h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh).

    Args:
        input_size, hidden_size, num_layers: see `RNNBase`, as all others.
        nonlinearity: "tanh" or "relu"; may be given as the fourth positional argument.

    >>> import allgrad as ag
    >>> y, h = RNN(3, 4, num_layers=2)(ag.zeros(5, 2, 3))
    >>> tuple(y.shape), tuple(h.shape)
    ((5, 2, 4), (2, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise OptionError.unknown("nonlinearity of RNN", nonlinearity, ("tanh", "relu"))
        if "proj_size" in kwargs:
            raise OptionError("RNN: a projection (proj_size) is for an LSTM only")
        self.nonlinearity: str
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(mode, input_size, hidden_size, num_layers, *args, **kwargs)
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), gates in the order i, f, g, o.

    c_t = f * c_(t-1) + i * g and h_t = o * tanh(c_t), where i, f, o are sigmoids and g is the tanh
    of W_ih x_t + b_ih + W_hh h_(t-1) + b_hh. Arguments: see `RNNBase`.

    >>> import allgrad as ag
    >>> y, (h, c) = LSTM(3, 4, batch_first=True, bidirectional=True)(ag.zeros(2, 5, 3))
    >>> tuple(y.shape), tuple(h.shape), tuple(c.shape)
    ((2, 5, 8), (2, 2, 4), (2, 2, 4))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(RNNBase):
    """Gated recurrent unit (Cho et al. 2014), gates in the order r, z, n.

    h_t = (1 - z) * n + z * h_(t-1), where r and z are sigmoids of
    W_ih x_t + b_ih + W_hh h_(t-1) + b_hh and
    n = tanh(W_in x_t + b_in + r * (W_hn h_(t-1) + b_hn)). Arguments: see `RNNBase`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise OptionError("GRU: a projection (proj_size) is for an LSTM only")
        super().__init__("GRU", *args, **kwargs)


class RNNCellBase(Module):
    """What the cells share: one step of a recurrent layer.

    Args:
        input_size, hidden_size: features of the input and of the state.
        bias: whether there are biases.
        num_chunks: gates.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        gates = num_chunks * hidden_size
        self.weight_ih = new_parameter(gates, input_size, dtype=dtype)
        self.weight_hh = new_parameter(gates, hidden_size, dtype=dtype)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, new_parameter(gates, dtype=dtype) if bias else None)
        self.reset_parameters()
        self._place(device)

    def reset_parameters(self) -> None:
        """Draw all parameters again, uniformly within 1 / sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _step(self, cell: str, input: Tensor, state: tuple[Tensor, ...] | None) -> Any:
        """The state after one step of input (N, I) or (I)."""
        name = type(self).__name__
        if input.ndim not in (1, 2):
            raise ArgumentError(
                f"{name}: expected input of 1 or 2 dimensions, came {tuple(input.shape)}"
            )
        for tensor in state or ():
            if tensor.ndim not in (1, 2):
                raise ArgumentError(
                    f"{name}: expected a state of 1 or 2 dimensions, came {tuple(tensor.shape)}"
                )
        if input.shape[-1] != self.input_size:
            raise ShapeError(
                f"{name}: expected {self.input_size} features, came input {tuple(input.shape)}"
            )
        single = input.ndim == 1
        x = input.unsqueeze(0) if single else input
        if state is not None:
            state = tuple(s.unsqueeze(0) if s.ndim == 1 else s for s in state)
            wanted = (x.shape[0], self.hidden_size)
            for tensor in state:
                if tuple(tensor.shape) != wanted:
                    raise ShapeError(
                        f"{name}: expected a state of shape {wanted} for input "
                        f"{tuple(input.shape)}, came {tuple(tensor.shape)}"
                    )
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, None)
        after = recurrent_step(cell, x, state, weights)
        return tuple(s.squeeze(0) for s in after) if single else after

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += f", bias={self.bias}"
        nonlinearity = self.__dict__.get("nonlinearity", "tanh")
        return text if nonlinearity == "tanh" else f"{text}, nonlinearity={nonlinearity}"


class RNNCell(RNNCellBase):
    """One step of `RNN`: (N, I), h (N, H) -> h; h is zeros if not given."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The new state."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise ShapeError(f"RNNCell: expected tanh or relu, came {self.nonlinearity!r}")
        state = None if hx is None else (hx,)
        h: Tensor = self._step(f"rnn_{self.nonlinearity}", input, state)[0]
        return h


class LSTMCell(RNNCellBase):
    """One step of `LSTM`: (N, I), (h, c) -> (h, c); the state is zeros if not given."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The new (h, c)."""
        h, c = self._step("lstm", input, None if hx is None else tuple(hx))
        return h, c


class GRUCell(RNNCellBase):
    """One step of `GRU`: (N, I), h (N, H) -> h; h is zeros if not given."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The new state."""
        h: Tensor = self._step("gru", input, None if hx is None else (hx,))[0]
        return h


def _check_settings(
    name: str, mode: str, hidden_size: Any, num_layers: int, dropout: Any, proj_size: int
) -> None:
    if mode not in _GATES:
        raise OptionError.unknown("mode of a recurrent layer", mode, _GATES)
    if (
        not isinstance(dropout, numbers.Number)
        or isinstance(dropout, bool)
        or not 0 <= dropout <= 1  # type: ignore[operator]
    ):
        raise OptionError(f"{name}: expected a dropout within 0..1, came {dropout!r}")
    if dropout and num_layers == 1:
        warnings.warn(
            f"{name}: dropout={dropout} acts between layers, but num_layers is 1", stacklevel=4
        )
    if not isinstance(hidden_size, int):
        raise TypeError(f"{name}: expected an integer hidden_size, came {hidden_size!r}")
    if hidden_size <= 0 or num_layers <= 0:
        raise OptionError(
            f"{name}: expected hidden_size and num_layers above 0, came {hidden_size} and "
            f"{num_layers}"
        )
    if not 0 <= proj_size < hidden_size:
        raise OptionError(
            f"{name}: expected proj_size within 0..{hidden_size - 1}, came {proj_size}"
        )
