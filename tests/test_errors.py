"""Errors, as a program meets them."""

from __future__ import annotations

import copy
import pickle

from ebapose.errors import MissingDependencyError


def test_a_missing_package_can_be_told_to_another_process() -> None:
    error = MissingDependencyError("torch", "train", "training")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is MissingDependencyError
        assert str(twin) == 'training needs torch, which is not installed: pip install "ebapose[train]"'


def test_only_packages_of_an_extra_are_explained() -> None:
    explained = MissingDependencyError.explaining(ModuleNotFoundError(name="torch.nn"), "reading")
    assert str(explained) == 'reading needs torch, which is not installed: pip install "ebapose[torch]"'
    assert MissingDependencyError.explaining(ModuleNotFoundError(name="torchh"), "reading") is None
    assert MissingDependencyError.explaining(ModuleNotFoundError("no name"), "reading") is None
