"""NumPy's floating-point warnings, switched off while ops run.

log(0) is -inf and 0/0 is nan here as in PyTorch: values, not warnings. `np.errstate` costs as
much as three small ops, so the context variable behind it is set directly where NumPy has it
(2.0 and later do); the caller's own settings are back as soon as the op is done.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class _Portable:
    """The same switch by NumPy's public functions."""

    def set(self, ignore: Any) -> dict[str, Any]:
        """Ignore floating-point errors from now on; returns what `reset` needs."""
        return dict(np.seterr(all="ignore"))

    def reset(self, before: dict[str, Any]) -> None:
        """Back to the settings that `set` found."""
        np.seterr(**before)


warnings_of_numpy: Any = _Portable()
IGNORED: Any = None
try:
    from numpy._core._ufunc_config import _extobj_contextvar  # type: ignore[attr-defined]
    from numpy._core.umath import _make_extobj
except ImportError:  # another NumPy: the portable switch stays
    pass
else:
    warnings_of_numpy, IGNORED = _extobj_contextvar, _make_extobj(all="ignore")
