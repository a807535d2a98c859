"""Errors that a user can act on. Each message is one line that names the thing and the cause."""

from __future__ import annotations

from typing import Self


class EbaposeError(Exception):
    """Base of every error that ebapose raises on purpose; its text is one line for a person."""


class InputError(EbaposeError):
    """One input (a picture, a box, a label file) cannot be used; other inputs may go on."""


class UsageError(EbaposeError):
    """The request itself is wrong (unknown model, contradictory options); nothing was started."""


class ModelFileError(EbaposeError):
    """A model file is missing, damaged, not a model, or differs from its card."""


# The extra of pyproject.toml for packages that whole modules are built on; others name theirs where they import it.
_EXTRAS = {"torch": "torch", "safetensors": "torch", "accelerate": "train"}


class MissingDependencyError(EbaposeError):
    """An optional package is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {package}, which is not installed: pip install "ebapose[{extra}]"')
        self._made_of = package, extra, purpose

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, str]]:
        return type(self), self._made_of  # an exception is copied by its text otherwise, which is not what makes one

    @classmethod
    def explaining(cls, error: ModuleNotFoundError, purpose: str, extra: str = "") -> Self | None:
        """The same in words for a person.

        Args:
            error: what an import raised.
            purpose: what needs the package.
            extra: installs all that the purpose needs; by default the one that has the package.

        Returns:
            None where the package is not one of an extra's: then it is a mistake, and its traceback is wanted.
        """
        package = (error.name or "").partition(".")[0]
        return cls(package, extra or _EXTRAS[package], purpose) if package in _EXTRAS else None
