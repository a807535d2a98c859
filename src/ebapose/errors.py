"""Errors that a user can act on. Each message is one line that names the thing and the cause."""

from __future__ import annotations


class EbaposeError(Exception):
    """Base of every error that ebapose raises on purpose; its text is one line for a person."""


class InputError(EbaposeError):
    """One input (a picture, a box, a label file) cannot be used; other inputs may go on."""


class UsageError(EbaposeError):
    """The request itself is wrong (unknown model, contradictory options); nothing was started."""


class ModelFileError(EbaposeError):
    """A model file is missing, damaged, not a model, or differs from its card."""


class MissingDependencyError(EbaposeError):
    """An optional package is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {package}, which is not installed: pip install "ebapose[{extra}]"')
