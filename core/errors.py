"""Every error type that allgrad raises; the lowest layer, imports nothing.

The tree (each also inherits the built-in that PyTorch raises for the same mistake, so that
``except RuntimeError`` written for PyTorch keeps working):

    AllgradError
    ├── ShapeError, DtypeError, GradientError, DatasetError, CheckpointError   (RuntimeError)
    ├── ArgumentError                                            (ShapeError and ValueError)
    ├── UnsupportedDtypeError                      (DtypeError and NotImplementedError)
    ├── UnsupportedInputError                      (ArgumentError and NotImplementedError)
    ├── BoundsError                                              (IndexError and RuntimeError)
    ├── DeviceError, DistributedError, LaunchError                            (RuntimeError)
    ├── OptionError                                                           (ValueError)
    └── Unsupported                                                           (NotImplementedError)
"""

from __future__ import annotations

from collections.abc import Iterable


class AllgradError(Exception):
    """Base class of all errors that allgrad raises on purpose."""


class ShapeError(AllgradError, RuntimeError):
    """Shapes do not fit the operation; the message names the operation and all shapes."""


class ArgumentError(ShapeError, ValueError):
    """An argument does not fit, where PyTorch raises ValueError rather than RuntimeError."""


class BoundsError(AllgradError, IndexError, RuntimeError):
    """An index lies outside its range; the message names the range."""


class DtypeError(AllgradError, RuntimeError):
    """Data types do not fit the operation; the message names the operation and all types."""


class UnsupportedDtypeError(DtypeError, NotImplementedError):
    """The operation does not exist for this dtype; the message names both."""


class UnsupportedInputError(ArgumentError, NotImplementedError):
    """The operation does not exist for this option and this number of dimensions."""


class DeviceError(AllgradError, RuntimeError):
    """A device is unknown, or this build cannot compute there."""


class GradientError(AllgradError, RuntimeError):
    """The backward pass cannot give a correct gradient (modified input, freed graph, ...)."""


class NonFiniteError(AllgradError, FloatingPointError):
    """A value that was asked to be checked is NaN or infinite."""


class DatasetError(AllgradError, RuntimeError):
    """A data set is missing, truncated, corrupt or empty."""


class CheckpointError(AllgradError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class CheckpointWriteError(CheckpointError):
    """A file cannot be written: the disk is full, or the folder read-only. What was there stays."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was written: truncated, changed, or a file of it is missing."""


class DistributedError(AllgradError, RuntimeError):
    """Ranks cannot start, disagree, or one of them has failed."""


class LaunchError(AllgradError, RuntimeError):
    """A job cannot be started as asked."""


class Unsupported(AllgradError, NotImplementedError):  # noqa: N818 - reads as a statement
    """A fast kernel cannot serve this call; the caller falls back and counts the reason."""


class OptionError(AllgradError, ValueError):
    """A setting has an unknown value; the message lists the known ones."""

    @classmethod
    def unknown(cls, what: str, given: object, known: Iterable[object]) -> OptionError:
        """Build the message "unknown <what> <given>; known: a, b, c"."""
        names = ", ".join(repr(k) for k in known)
        return cls(f"unknown {what} {given!r}; known: {names}")
