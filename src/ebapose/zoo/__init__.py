"""Weights that ship with the package, each with its card beside it."""
