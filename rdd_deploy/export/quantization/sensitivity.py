"""Which layers cost accuracy in INT8: each is quantised alone and the network's mIoU is measured."""

from __future__ import annotations

from typing import NamedTuple

import onnx

from rdd_deploy.console import progress
from rdd_deploy.data.base import Split, evenly_spaced
from rdd_deploy.export.compare import compare, reference_from
from rdd_deploy.export.onnx.session import infer_onnx
from rdd_deploy.export.profile import Placement
from rdd_deploy.export.quantization.placement import multiply_adds, place_qdq
from rdd_deploy.export.quantization.qdq import qdq_from_onnx
from rdd_deploy.export.quantization.ranges import RangeTable
from rdd_deploy.export.quantization.schemes.base import Scheme


class Sensitivity(NamedTuple):
    """One layer quantised alone; points of mIoU it costs, share of equal labels, share of the multiply-adds."""

    layer: str
    drop_pct: float
    agreement_pct: float
    macs_share: float


def rank_layers(
    model: onnx.ModelProto,
    table: RangeTable,
    scheme: Scheme,
    placement: Placement,
    train: Split,
    size: tuple[int, int],
    count: int,
) -> list[Sensitivity]:
    """Worst layer first, on ``count`` frames spread over the train split (val stays unseen: the choice must not be
    fitted to it).
    """
    layers = list(place_qdq(model, scheme, placement).convolutions)
    macs = multiply_adds(model)
    total = sum(macs.values())
    frames = evenly_spaced(train, count)
    reference = reference_from(infer_onnx(model), frames, size, "train frames", "train")
    found = []
    with progress("rank layers", len(layers)) as bar:
        for layer in layers:
            others = [other for other in layers if other != layer]
            alone = qdq_from_onnx(model, table, scheme, placement, others)
            measured = compare(infer_onnx(alone), reference, layer)
            found.append(Sensitivity(layer, measured.drop_pct, measured.agreement_pct, macs[layer] / total))
            bar.advance()
    return sorted(found, key=lambda one: (-round(one.drop_pct, 2), one.agreement_pct))


def within_budget(ranked: list[Sensitivity], share: float) -> list[str]:
    """Layers from the worst on, as long as they hold at most ``share`` of the multiply-adds; one that is too big is
    passed over.
    """
    taken: list[str] = []
    used = 0.0
    for one in ranked:
        if used + one.macs_share <= share:
            taken.append(one.layer)
            used += one.macs_share
    return taken
