"""How far a replayed blob may be from the recorded one, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_margin.layers.checks import describe
from caffe_margin.maths.arrays import FloatArray

RTOL: dict[np.dtype, float] = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-6}
"""How far a blob may be from the recorded one, of the recorded one's largest magnitude."""


@dataclass(frozen=True)
class Check:
    """One blob of a replay, held against the recording.

    Attributes:
        blob: its key in the recording.
        engine: which engine computed it; empty where there is one only.
        dtype: name of the dtype.
        index: of the element that differs most.
        computed: that element, as replayed.
        recorded: that element, as recorded.
        absolute: by how much it differs; infinite where only one of the two is finite.
        relative: the same over the recorded blob's largest finite magnitude.
        ulps: the same in units of that magnitude's last place.
        rtol: what ``relative`` may be.
    """

    blob: str
    engine: str
    dtype: str
    index: tuple[int, ...]
    computed: float
    recorded: float
    absolute: float
    relative: float
    ulps: float
    rtol: float

    @property
    def ok(self) -> bool:
        """Whether the blob is within tolerance."""
        return self.relative <= self.rtol


@dataclass(frozen=True)
class Verification:
    """A recording's replay.

    Attributes:
        kind: ``layer``, ``softmax_loss``, ``head_sgd``, ``solver`` or ``net``.
        source: what recorded it.
        checks: every blob under every engine.
        not_replayed: the types of a net's layers that were not, one a layer.
        wrong_in_caffe: what Caffe is known to compute wrongly and is not held against it: the
            diffs below a layer whose Backward reads what was overwritten in place.
    """

    kind: str
    source: str
    checks: tuple[Check, ...]
    not_replayed: tuple[str, ...] = ()
    wrong_in_caffe: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every blob is within tolerance."""
        return all(check.ok for check in self.checks)

    @property
    def worst(self) -> Check:
        """The check that is farthest from its recording, for its tolerance."""
        return max(self.checks, key=lambda check: (not check.ok, check.relative / check.rtol))


def compare_blob(
    blob: str,
    engine: str,
    computed: FloatArray,
    recorded: FloatArray,
    rtol: float | None,
    scale: float = 0.0,
) -> Check:
    """Hold a replayed blob against the recorded one.

    Args:
        blob, engine, computed, recorded: as in `Check`.
        rtol: a tolerance instead of `RTOL`'s.
        scale: the magnitude that a difference is relative to, where the recorded one's largest is
            smaller.

    Raises:
        ValueError: the recorded one has another shape or dtype.
    """
    if recorded.shape != computed.shape or recorded.dtype != computed.dtype:
        raise ValueError(f"{blob} is {describe(recorded)}; the layer's is {describe(computed)}")
    rtol = RTOL[recorded.dtype] if rtol is None else rtol
    dtype = str(recorded.dtype)
    if not recorded.size:
        return Check(blob, engine, dtype, (), 0.0, 0.0, 0.0, 0.0, 0.0, rtol)
    a, b = computed.astype(np.float64), recorded.astype(np.float64)
    difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    difference[np.isnan(difference)] = np.inf
    at = np.unravel_index(np.argmax(difference), difference.shape)
    absolute = float(difference[at])
    largest = np.abs(recorded, where=np.isfinite(recorded), out=np.zeros_like(recorded)).max()
    largest = max(largest, recorded.dtype.type(scale))
    if absolute == 0:
        relative = ulps = 0.0
    elif largest == 0:
        relative = ulps = np.inf
    else:
        relative, ulps = absolute / float(largest), absolute / float(np.spacing(largest))
    return Check(
        blob=blob,
        engine=engine,
        dtype=dtype,
        index=tuple(int(i) for i in at),
        computed=float(a[at]),
        recorded=float(b[at]),
        absolute=absolute,
        relative=relative,
        ulps=ulps,
        rtol=rtol,
    )
