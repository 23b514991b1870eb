"""What a course can prove whose blocks were sampled: no more than the samples do.

An estimate of many blocks may rest on few samples. One sample of a small block stands for thousands, so that a count of
estimated blocks says nothing of how sure it is. A total T with variance V is as certain as a count of T^2 / V events,
each of u = V / T bytes (``certainty.py``); that many blocks are counted here.

The change from the first edge to the last comes from the B bytes of blocks that are there at one of them alone. Its
variance is u B, and half of its 95 % interval that of a score interval, z sqrt(u B + (z u / 2)^2), which is no zero
where nothing was seen.

Caveats: u is that of the end of the trace. A total of which nothing is left then has no samples, and counts as exact.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from nativeleak.analysis.curves import Curves, Floats

_Z95: Final = 1.959963984540054
"""95 % of a normal distribution lie within this many standard deviations."""


def by_samples(curves: Curves) -> Curves:
    """The same curves with as many blocks as the estimates are worth; exact ones stay as they are."""
    if not curves.units.any() or not curves.n_blocks.shape[1]:
        return curves
    last, blocks = curves.n_bytes[:, -1], curves.n_blocks[:, -1]
    worth = np.where(curves.units > 0, last / np.maximum(curves.units, 1e-9), np.inf)
    shares = np.minimum(1.0, worth / np.maximum(blocks, 1e-9))
    return replace(curves, n_blocks=curves.n_blocks * shares[:, None])


def change_margins(curves: Curves) -> Floats:
    """Half of the 95 % interval of the change from the first edge to the last, bytes; 0 where every block was kept."""
    n_rows = len(curves.n_bytes)
    if not curves.units.any():
        return np.zeros(n_rows)
    first, last = np.abs(curves.n_bytes[:, 0]), np.abs(curves.n_bytes[:, -1])
    stayed = np.minimum(_born_before(curves, float(curves.elapsed_s[0])), first)
    changed = np.maximum(0.0, first + last - 2 * stayed)
    return np.asarray(_Z95 * np.sqrt(curves.units * changed + (_Z95 * curves.units / 2) ** 2))


def _born_before(curves: Curves, moment_s: float) -> Floats:
    """Bytes at the end that were born before a moment; 0 without birth slices."""
    n_slices = curves.slices.shape[1]
    if not n_slices or not curves.slice_s:
        return np.zeros(len(curves.n_bytes))
    shares = np.clip(moment_s / curves.slice_s - np.arange(n_slices), 0.0, 1.0)
    return np.asarray(curves.slices @ shares)
