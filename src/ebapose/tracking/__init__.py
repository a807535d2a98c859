"""Poses over time: identities, smoothing, and the loop that walks through a video."""
