"""Every loss on the GPU in float32 against the same formulas written out in float64 on the CPU: values, gradients,
weights.

Also crops of cached logits, and whole networks. Inputs are random, with void pixels, large logits, and NaN at void
pixels.
"""

from __future__ import annotations

import math
import sys

import torch
from common import DEVICE, SMOKE, add, guarded, relative, tf32
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
LIMIT = 1e-4
"""Largest relative error that passes: float32 arithmetic stays far below."""


def inputs(scale: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Float64 logits of student, teacher, auxiliary (3, 11, 72, 100) and labels; a student and a teacher that are often
    right.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 11, 72, 100)
    labels = torch.randint(0, 11, (3, 72, 100), generator=generator)
    truth = F.one_hot(labels, 11).permute(0, 3, 1, 2).double()
    student, teacher = (
        scale * (torch.randn(shape, generator=generator, dtype=torch.float64) + factor * truth) for factor in (2.5, 3.0)
    )
    auxiliary = teacher + 0.7 * scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels[:, :5] = IGNORE
    labels[1, 20:30, 20:30] = IGNORE
    # A float32 number and its float64 twin must be the same number.
    return student.float().double(), teacher.float().double(), auxiliary.float().double(), labels


def reference(
    student: Tensor,
    teacher: Tensor,
    auxiliary: Tensor,
    labels: Tensor,
    stage: str,
    rule: str,
    temperature: float,
    kept_share: float,
) -> dict[str, Tensor]:
    """The paper's Eq. 6-9 beside KD, in plain float64."""
    valid = labels != IGNORE
    index = torch.where(valid, labels, 0)[:, None]
    log_s, log_t = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    ce = -log_s.gather(1, index)[:, 0]
    soft_s, soft_t = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    kd = temperature**2 * (soft_t.exp() * (soft_t - soft_s)).sum(1)[valid].mean()
    if stage == "tfe":
        log_a = F.log_softmax(auxiliary, 1)
        weight = torch.exp(-(log_t.exp() * (log_t - log_a)).sum(1)) * valid
        task = (weight * ce)[valid].sum() / valid.sum()
    elif stage == "tse":
        hard = []
        for log_p in (log_s.detach(), log_t):
            p = log_p.gather(1, index)[:, 0].exp()
            count = math.ceil(kept_share * labels.numel() - 1e-6)
            threshold = max(0.7, float(p[valid].sort().values[min(count, int(valid.sum())) - 1])) if count else 0.7
            hard.append((p <= threshold) & valid)
        mask = {
            "xor": hard[0] ^ hard[1],
            "and": hard[0] & hard[1],
            "or": hard[0] | hard[1],
            "lead": hard[0] & ~hard[1],
            "student": hard[0],
        }[rule]
        weight = mask.double()
        task = ce[mask].sum() / mask.sum().clamp(min=1)
    else:
        weight, task = valid.double(), ce[valid].mean()
    return {"total": task + kd, "task": task, "kd": kd, "weight": weight}


def distillation() -> None:
    """RelativeDifficultyLoss in each stage and rule."""
    from rdd_deploy.losses.rdd import RelativeDifficultyLoss

    worst, masks = {"value": 0.0, "gradient": 0.0, "weight": 0.0}, 0
    cases = [("tfe", "xor", 1.0, 0.05), ("tfe", "xor", 4.0, 0.05), ("kd", "xor", 2.0, 0.05)]
    cases += [("tse", rule, 1.0, kept) for rule in ("xor", "and", "or", "lead", "student") for kept in (0.0, 0.05, 0.6)]
    for number, (stage, rule, temperature, kept) in enumerate(cases):
        # At 30 most probabilities are 1 in float32, and a rank among them means nothing.
        for scale in (1.0, 30.0) if kept < 0.5 else (1.0,):
            for layout in (torch.contiguous_format, torch.channels_last):
                student, teacher, auxiliary, labels = inputs(scale, number)
                exact = student.clone().requires_grad_()
                expected = reference(exact, teacher, auxiliary, labels, stage, rule, temperature, kept)
                expected["total"].backward()
                void = (labels == IGNORE)[:, None].expand_as(student)
                mine = student.float().masked_fill(void, torch.nan).to(DEVICE, memory_format=layout).requires_grad_()
                loss = RelativeDifficultyLoss(
                    tfe_fraction=float(stage == "tfe"),
                    rule=rule,
                    min_kept=kept,
                    temperature=temperature,
                    weighted=stage != "kd",
                )
                with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
                    got = loss(
                        mine,
                        teacher.float().to(DEVICE, memory_format=layout),
                        auxiliary.float().to(DEVICE),
                        labels.to(DEVICE),
                        0.5,
                    )
                got.total.backward()
                assert mine.grad is not None
                assert exact.grad is not None
                assert not mine.grad[void.to(DEVICE)].any(), "a void pixel has a gradient"
                differing = int(((got.weight.cpu() > 0) != (expected["weight"] > 0)).sum()) if stage == "tse" else 0
                masks = max(masks, differing)
                if differing == 0:  # a pixel exactly at a threshold may fall to either side
                    for name in ("task", "kd"):
                        worst["value"] = max(worst["value"], relative(got.terms[name], expected[name]))
                    worst["gradient"] = max(worst["gradient"], relative(mine.grad, exact.grad))
                    worst["weight"] = max(worst["weight"], relative(got.weight, expected["weight"]))
    for name, error in worst.items():
        add("losses", f"RDD and KD in every stage and rule, {name}: error", error, "ok" if error < LIMIT else "FAILED")
    add("losses", "RDD: most pixels of 21600 in another mask than float64's", masks, "ok" if masks <= 2 else "FAILED")


def others() -> None:
    """Task losses, KD and CWD."""
    from rdd_deploy.losses.cwd import ChannelWise
    from rdd_deploy.losses.kd import PixelKD
    from rdd_deploy.losses.task import TaskLoss
    from rdd_deploy.outputs import Output

    student, teacher, _, labels = inputs(1.0, 99)
    valid = labels != IGNORE
    weights = torch.rand(11, generator=torch.Generator().manual_seed(1)) + 0.5
    cases = {"ce": (TaskLoss("ce"), None), "balanced": (TaskLoss("balanced", weights), weights.double())}
    for name, (loss, weight) in cases.items():
        exact, mine = student.clone().requires_grad_(), student.float().to(DEVICE).requires_grad_()
        expected = F.cross_entropy(exact, labels, weight, ignore_index=IGNORE)
        got = loss.to(DEVICE)(mine, labels.to(DEVICE))
        expected.backward(), got.backward()  # type: ignore[func-returns-value]
        error = max(relative(got, expected), relative(mine.grad, exact.grad))  # type: ignore[arg-type]
        add("losses", f"task loss {name}: value and gradient", error, "ok" if error < LIMIT else "FAILED")
    exact = -F.log_softmax(student, 1).gather(1, torch.where(valid, labels, 0)[:, None])[:, 0]
    hard = valid & (exact.neg().exp() <= 0.7)
    if int(hard.sum()) >= 0.05 * labels.numel():
        error = relative(TaskLoss("ohem")(student.float().to(DEVICE), labels.to(DEVICE)), exact[hard].mean())
        add("losses", "task loss ohem: value", error, "ok" if error < LIMIT else "FAILED")
    maps = [logits.float().to(DEVICE) for logits in (student, teacher)]
    outputs = [Output(logits, None, {"logits": logits}) for logits in maps]
    a, b = (
        F.log_softmax((logits / 4).masked_fill(~valid[:, None], -torch.inf).flatten(2), 2)
        for logits in (student, teacher)
    )
    a, b = (torch.where(valid.flatten(1)[:, None], log_p, 0) for log_p in (a, b))
    error = relative(ChannelWise()(*outputs, labels.to(DEVICE)), 16 * (b.exp() * (b - a)).sum(2).mean())
    add("losses", "channel-wise distillation: value", error, "ok" if error < LIMIT else "FAILED")
    a, b = F.log_softmax(student / 2, 1), F.log_softmax(teacher / 2, 1)
    error = relative(PixelKD(2.0)(*outputs, labels.to(DEVICE)), 4 * (b.exp() * (b - a)).sum(1)[valid].mean())
    add("losses", "pixel KD: value", error, "ok" if error < LIMIT else "FAILED")


def crops() -> None:
    """cut_logits against its float64 self on the CPU."""
    from rdd_deploy.data.transforms import cut_logits

    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 11, 45, 60, generator=generator)
    windows = torch.tensor([[0, 0, 90, 120, 0], [-20, 10, 200, 200, 1], [33, 7, 90, 120, 1], [5, -40, 300, 260, 0]])
    got = cut_logits(logits.half().to(DEVICE), windows.to(DEVICE), (180, 240), (96, 96))
    exact = cut_logits(logits.half().float(), windows, (180, 240), (96, 96))
    error = relative(got, exact)
    add("losses", "crops of cached logits against the CPU's", error, "ok" if error < LIMIT else "FAILED")


def networks() -> None:
    """A whole segmenter in 32-true on the GPU against float64 on the CPU, as ``evaluate --device cuda`` runs it; and in
    bf16.
    """
    from rdd_deploy.models.config import Network
    from rdd_deploy.models.segmenter import Segmenter

    pairs = (
        (("mobilenetv3_small_050", "lraspp"),)
        if SMOKE
        else (("mobilenetv3_large_100", "lraspp"), ("resnet18", "deeplabv3"))
    )
    for encoder, head in pairs:
        torch.manual_seed(0)
        network = Segmenter(Network(encoder=encoder, head=head, weights="none"), 11).eval()
        frames = torch.randint(0, 256, (2, 3, 120, 160), dtype=torch.uint8)
        with torch.no_grad():
            for module in network.modules():  # statistics of the very frames, or the logits would overflow or die out
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.train().momentum = None
            network(frames)
            network.eval()
            network.double()
            x = (frames.double() - network.mean) / network.std
            exact = network.head(network.frame_sizes.features(network.encoder, x))
            there = network.float().to(DEVICE, memory_format=torch.channels_last)
            for name, dtype, allowed in (
                ("32-true as it is", None, True),
                ("32-true, TF32 off", None, False),
                ("bf16", torch.bfloat16, True),
            ):
                with tf32(allowed), torch.autocast(DEVICE.type, dtype=dtype, enabled=dtype is not None):
                    got = there.logits_at_stride(frames.to(DEVICE)).primary
                same = float((got.float().argmax(1).cpu() == exact.argmax(1)).double().mean())
                add(
                    "losses",
                    f"{encoder} logits, {name}: error / same labels %",
                    f"{relative(got, exact):.2e} / {100 * same:.2f}",
                )


def main() -> None:
    for what in (distillation, others, crops, networks):
        with guarded("losses", what.__name__):
            what()


if __name__ == "__main__":
    sys.exit(main())
