"""A whole net over several processes, which share the rows of a large head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.load import StrPath, naming
from caffe_margin.files.rows import Rows, Share, Shares, Stored
from caffe_margin.files.weights import own_rows
from caffe_margin.nets.loss_above import loss_above
from caffe_margin.nets.margin import FIELDS
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.layers.sharded_head import LossOfHead, ShardedHead
from caffe_margin.torch.layers.table import make_layer
from caffe_margin.torch.net import Net
from caffe_margin.torch.weights import as_array


class DistributedNet(Net):
    """A net whose layers with a margin, where they are large, are shared among processes.

    Of such a layer each process has some rows, `ShardedHead`; all others it has whole. Files hold
    the net whole, whatever the number of processes: each reads its rows, and the first writes.

    Args:
        net: as `Net`.
        group: the processes; None for all.
        shard_above: the bytes of a weight beyond which it is shared.
        **options: those of `Net`.

    Raises:
        ValueError: as `Net`; or a layer reads the scores of one that is shared.
    """

    def __init__(
        self,
        net: StrPath | pb.NetParameter,
        *,
        group: dist.ProcessGroup | None,
        shard_above: int,
        **options: Any,
    ) -> None:
        self.group = group
        self.shard_above = shard_above
        self.heads: dict[str, ShardedHead] = {}
        self._width = (options.get("dtype") or torch.float32).itemsize
        super().__init__(net, **options)

    def _make_layers(self, layers: Sequence[LayerShapes]) -> list[Layer | None]:
        above = {
            param.name: loss_above(self.param, param).name
            for param, shapes in zip(self.param.layer, layers, strict=True)
            if param.type in FIELDS and self._is_large(shapes)
        }
        made: list[Layer | None] = []
        for param, shapes in zip(self.param.layer, layers, strict=True):
            if param.name in above:
                with naming(f"layer {param.name!r} ({param.type})"):
                    self.heads[param.name] = ShardedHead(param, shapes, self.group)
                made.append(self.heads[param.name])
            elif param.name in above.values():
                made.append(LossOfHead(param, shapes))
            else:
                made.append(make_layer(param, shapes))
        pending = self._pending or {}
        self._pending = {name: own_rows(name, pending[name], self.shares) for name in pending}
        return made

    def _is_large(self, shapes: LayerShapes) -> bool:
        rows, features = shapes.params[0]
        return (rows or 0) * (features or 0) * self._width > self.shard_above

    @property
    def shares(self) -> Shares:
        """Of which layers this process has some rows alone."""
        return {
            name: Share((head.out_features, head.in_features), head.rows)
            for name, head in self.heads.items()
        }

    def stored(self, blob: Tensor, like: Tensor | None = None) -> Stored:
        """Return a blob as files hold it, in which others' rows are asked for one after the other.

        Every process goes through the blocks of it, in the same order; the first has them all.

        Args:
            blob: one of the net's, or something that has as many rows, such as a history.
            like: the blob that it is then as.
        """
        weight = blob if like is None else like
        head = next((head for head in self.heads.values() if head.weight is weight), None)
        if head is None:
            return as_array(blob)
        dtype = np.dtype(np.float64 if blob.dtype == torch.float64 else np.float32)
        blocks = (as_array(rows) for rows in head.gather_rows(blob))
        return Rows((head.out_features, *blob.shape[1:]), dtype, blocks)

    def save_weights(self, path: StrPath) -> None:
        """Write all blobs, as `Net.save_weights`: every process calls it, and the first writes.

        Raises:
            ValueError: as there.
            OSError: as there.
            LostError: another process does not answer.
        """
        if dist.get_rank(self.group) == 0:
            return super().save_weights(path)
        send_rows(self.stored(blob) for blobs in self.params.values() for blob in blobs)


def send_rows(blobs: Iterable[Stored]) -> None:
    """Go through the blobs that processes share, while the first writes them."""
    for blob in blobs:
        if isinstance(blob, Rows):
            for _ in blob.blocks:
                pass
