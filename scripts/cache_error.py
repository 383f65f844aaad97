"""What a compact teacher cache costs in bytes and in truth: against the dense one, on frames of a split.

    python scripts/cache_error.py runs/camvid_teacher_lite2/teacher.safetensors --root data/camvid --frames 40

For each way of keeping log-probabilities: bytes a pixel (with stage 1's weight, and as a share of the dense cache's),
mean KL(dense ‖ kept) and the share of pixels whose likeliest class differs. Views as in the recipes that use the cache:
mirrored, scales 1.0 and 1.5.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from rdd_deploy.data.open import open_split
from rdd_deploy.losses.rdd import teacher_full_evaluated
from rdd_deploy.models.tta import TestTimeAugmentation, cache_grid, stacked, tta_logits
from rdd_deploy.models.weights import load_segmenter
from rdd_deploy.training.compact import EveryClass, Likeliest, Weights, compact_form


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="teacher.safetensors")
    parser.add_argument("--data", default="camvid")
    parser.add_argument("--root", default="data/camvid")
    parser.add_argument("--split", default="val")
    parser.add_argument("--frames", type=int, default=24, help="spread evenly over the split")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5])
    arguments = parser.parse_args()
    teacher, metadata = load_segmenter(arguments.checkpoint)
    teacher.eval()
    split = open_split(arguments.data, arguments.root, arguments.split)
    height, width = metadata["size"]
    views = TestTimeAugmentation((height, width), tuple(arguments.scales), True)
    classes = teacher.classes
    forms = [compact_form(classes), *(Likeliest(classes, kept) for kept in (2, 3, 4, 5, 6, 8, 12) if kept <= classes)]
    forms += [EveryClass(classes, bits) for bits in (4, 5, 6)]
    sums = torch.zeros(len(forms), 3, dtype=torch.float64)
    confidence = error = 0.0
    indices = sorted({round(i * (len(split) - 1) / max(1, arguments.frames - 1)) for i in range(arguments.frames)})
    for index in indices:
        with torch.inference_mode():
            said = tta_logits(teacher, stacked([split.frame(index)], views.size), views, cache_grid(views))
            exact = F.log_softmax(said.primary.half().float(), 1)  # as the dense cache holds it
            confidence += float(exact.amax(1).exp().mean()) / len(indices)
            if said.auxiliary is not None:
                weight = teacher_full_evaluated(said.primary, said.auxiliary)[:, None]
                error += float((Weights().decoded(Weights().encoded(weight)) - weight).abs().mean()) / len(indices)
            for row, form in zip(sums, forms, strict=True):
                kept = form.decoded(form.encoded(said.primary))
                divergence = (exact.exp() * (exact - kept)).sum(1)
                row += torch.tensor(
                    [divergence.mean(), (kept.argmax(1) != exact.argmax(1)).double().mean(), divergence.max()],
                    dtype=torch.float64,
                )
    extra = int(teacher.has_auxiliary)
    dense = 2 * classes * (1 + extra)
    print(
        f"{len(indices)} frames, {classes} classes, mean confidence {confidence:.3f}, dense {dense} bytes a pixel,"
        f" weight's mean error {error:.1e}"
    )
    print("form             bytes   of dense    mean KL   largest   other argmax")
    for form, (divergence, differs, largest) in zip(forms, (sums / len(indices)).tolist(), strict=True):
        name = f"{form.bits} bits, all" if isinstance(form, EveryClass) else f"{form.kept} likeliest"
        size = form.planes + extra
        print(
            f"{name:16} {size:5}   {size / dense:8.3f}   {divergence:8.1e}  {largest:8.1e}  "
            f" {differs:8.1e}{'   <- default' if form is forms[0] else ''}"
        )


if __name__ == "__main__":
    main()
