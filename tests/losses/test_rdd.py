"""The losses against a naive oracle in float64 that ranks by sorting everything, as the paper and OHEM put it down."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rdd_deploy.losses import ranks
from rdd_deploy.losses.ranks import hard_pixels, kept_count
from rdd_deploy.losses.rdd import (
    RelativeDifficultyLoss,
    _true_probability,
    teacher_full_evaluated,
    teacher_student_evaluated,
)
from rdd_deploy.losses.task import TaskLoss

VOID = 255
RULES = ("xor", "and", "or", "lead", "student")


def oracle_softmax(logits: torch.Tensor) -> np.ndarray:
    z = logits.detach().double().numpy()
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def oracle_hard(p: np.ndarray, valid: np.ndarray, threshold: float, min_kept: float) -> np.ndarray:
    """OHEM's rule with a full sort; p and valid are (N, H, W)."""
    count = math.ceil(round(min_kept * p.size, 6)) if isinstance(min_kept, float) else min_kept
    ranked = np.sort(p[valid])
    if count > 0 and len(ranked):
        threshold = max(threshold, ranked[min(count, len(ranked)) - 1])
    return valid & (p <= threshold)


def oracle_true(logits: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    p = oracle_softmax(logits)
    index = np.where(target.numpy() == VOID, 0, target.numpy())
    return np.take_along_axis(p, index[:, None], 1)[:, 0]


def oracle_mask(student, teacher, target, threshold, min_kept, rule) -> np.ndarray:
    valid = target.numpy() != VOID
    s, t = (oracle_hard(oracle_true(z, target), valid, threshold, min_kept) for z in (student, teacher))
    return {"xor": s ^ t, "and": s & t, "or": s | t, "lead": s & ~t, "student": s}[rule]


def oracle_loss(
    student, teacher, auxiliary, target, progress, *, p=0.1, threshold=0.7, min_kept=0.05, rule="xor", T=1.0, lam=1.0
) -> float:
    valid = target.numpy() != VOID
    ce = -np.log(oracle_true(student, target))
    if progress < p:
        main, aux = oracle_softmax(teacher), oracle_softmax(auxiliary)
        weight = np.exp(-(main * np.log(main / aux)).sum(1))
        task = (weight * ce)[valid].mean() if valid.any() else 0.0
    else:
        mask = oracle_mask(student, teacher, target, threshold, min_kept, rule)
        task = ce[mask].mean() if mask.any() else 0.0
    soft_t, soft_s = oracle_softmax(teacher / T), oracle_softmax(student / T)
    kl = (soft_t * np.log(soft_t / soft_s)).sum(1)
    return float(task + lam * T**2 * (kl[valid].mean() if valid.any() else 0.0))


def drawn(
    seed: int, n: int = 2, c: int = 5, h: int = 7, w: int = 9, void: float = 0.2, sharp: float = 2.0
) -> list[torch.Tensor]:
    """Student, teacher and auxiliary logits that are right often enough for both stages to have something to do; and a
    target.
    """
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, c, (n, h, w), generator=g)
    hint = F.one_hot(target, c).permute(0, 3, 1, 2)
    logits = [sharp * (torch.randn(n, c, h, w, generator=g) + gain * hint) for gain in (0.8, 1.4, 1.0)]
    target[torch.rand(n, h, w, generator=g) < void] = VOID
    return [*logits, target]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000), rule=st.sampled_from(RULES), threshold=st.sampled_from([0.3, 0.6, 0.7, 0.8]),
    min_kept=st.sampled_from([0, 1, 17, 500, 0.0, 0.05, 0.3, 0.77, 1.0]), void=st.sampled_from([0.0, 0.2, 0.97, 1.0]),
)  # fmt: skip
def test_mask_is_that_of_a_full_sort(seed: int, rule: Any, threshold: float, min_kept: float, void: float) -> None:
    student, teacher, _, target = drawn(seed, void=void)
    got = teacher_student_evaluated(student, teacher, target, threshold=threshold, min_kept=min_kept, rule=rule)
    assert (got.dtype, got.shape) == (torch.bool, target.shape)
    assert (got.numpy() == oracle_mask(student, teacher, target, threshold, min_kept, rule)).all()
    assert not got[target == VOID].any()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000), rule=st.sampled_from(RULES), progress=st.sampled_from([0.0, 0.05, 0.1, 0.6]),
    min_kept=st.sampled_from([0, 30, 0.05, 1.0]), temperature=st.sampled_from([1.0, 2.5]), void=st.sampled_from([0.0, 0.3, 1.0]),
)  # fmt: skip
def test_loss_is_the_papers(
    seed: int, rule: Any, progress: float, min_kept: float, temperature: float, void: float
) -> None:
    student, teacher, auxiliary, target = drawn(seed, void=void)
    loss = RelativeDifficultyLoss(rule=rule, min_kept=min_kept, temperature=temperature, kd_weight=0.7)
    got = loss(student, teacher, auxiliary, target, progress)
    expected = oracle_loss(
        student, teacher, auxiliary, target, progress, rule=rule, min_kept=min_kept, T=temperature, lam=0.7
    )
    assert got.total.item() == pytest.approx(expected, abs=1e-5)


def test_one_value_by_hand() -> None:
    # Two classes, logits (ln 3, 0) give (3/4, 1/4). Main (3/4, 1/4) against aux (1/4, 3/4):
    # KL = 3/4 ln 3 + 1/4 ln 1/3 = 1/2 ln 3, so the weight is exp(-1/2 ln 3) = 1/sqrt(3).
    ln3 = math.log(3)
    main, aux = torch.tensor([ln3, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, ln3]).view(1, 2, 1, 1)
    assert teacher_full_evaluated(main, aux).item() == pytest.approx(1 / math.sqrt(3), abs=1e-6)
    # The student gives the true class 1/2: CE = ln 2. KD = 3/4 ln(3/2) + 1/4 ln(1/2).
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    kd = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    loss = RelativeDifficultyLoss(tfe_fraction=1.0)
    total = loss(torch.zeros(1, 2, 1, 1), main, aux, target, 0.0).total.item()
    assert total == pytest.approx(math.log(2) / math.sqrt(3) + kd, abs=1e-6)
    # Stage 2: 1/2 <= 0.7 is hard for the student, 3/4 is easy for the teacher: the pixel is kept whole.
    loss = RelativeDifficultyLoss(tfe_fraction=0.0, min_kept=0)
    assert loss(torch.zeros(1, 2, 1, 1), main, None, target, 0.0).total.item() == pytest.approx(
        math.log(2) + kd, abs=1e-6
    )


def test_directions_of_the_divergence() -> None:
    _, main, aux, _ = drawn(1)
    a, b = oracle_softmax(main), oracle_softmax(aux)
    papers = np.exp(-(a * np.log(a / b)).sum(1))
    references = np.exp(-(b * np.log(b / a)).sum(1))
    assert np.abs(teacher_full_evaluated(main, aux).numpy() - papers).max() < 1e-5
    assert np.abs(teacher_full_evaluated(main, aux, divergence="aux_main").numpy() - references).max() < 1e-5
    assert np.abs(papers - references).max() > 0.01


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]))
def test_weight_is_above_0_and_at_most_1(seed: int, scale: float) -> None:
    _, main, aux, _ = drawn(seed)
    weight = teacher_full_evaluated(scale * main, scale * aux)
    assert weight.dtype == torch.float32
    assert ((weight > 0) & (weight <= 1)).all()
    assert (teacher_full_evaluated(scale * main, scale * main) == 1).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("min_kept", "meaning"),
    [
        (0, "threshold alone"),
        (0.0, "threshold alone"),
        (1.0, "all valid"),
        (10_000, "all valid"),
        (1, "the hardest one at least"),
    ],
)
def test_edges_of_min_kept(rule: Any, min_kept: float, meaning: str) -> None:
    _, _, _, target = drawn(3)
    # P = 1 everywhere.
    confident = 50.0 * F.one_hot(torch.where(target == VOID, 0, target), 5).permute(0, 3, 1, 2).float()
    valid = target != VOID
    ranks = confident + torch.randn_like(confident)
    got = teacher_student_evaluated(
        ranks, ranks, target, min_kept=min_kept, rule="student" if rule == "student" else "or"
    )
    assert (got.numpy() == oracle_mask(ranks, ranks, target, 0.7, min_kept, "student")).all()
    if meaning == "threshold alone":
        assert not got.any()
    elif meaning == "all valid":
        assert (got == valid).all()
    else:
        assert got.any()
    same = teacher_student_evaluated(ranks, ranks, target, min_kept=min_kept, rule="xor")
    assert not same.any()  # equally hard for both: nothing is kept


def test_fewer_valid_pixels_than_min_kept() -> None:
    student, teacher, _, target = drawn(4, void=0.95)
    valid = target != VOID
    assert 0 < valid.sum() < 30
    assert (teacher_student_evaluated(student, teacher, target, min_kept=30, rule="student") == valid).all()


def test_share_is_of_all_pixels_of_the_batch_rounded_up() -> None:
    # 2 x 3 x 7 = 42 pixels: 5 % are 2.1, so three; void pixels count in the share (METHOD: the same for every crop and
    # batch size).
    assert kept_count(0.05, 42) == 3
    assert [kept_count(0.05, 20), kept_count(0.1, 30), kept_count(1.0, 7), kept_count(0.0, 7), kept_count(7, 3)] == [
        1,
        3,
        7,
        0,
        7,
    ]
    p = torch.linspace(0.8, 0.99, 42).view(2, 3, 7)
    valid = torch.ones(2, 3, 7, dtype=torch.bool)
    valid[1] = False
    assert hard_pixels(p, valid, 0.7, 0.05).sum() == 3


def test_numpy_numbers_mean_what_python_numbers_mean() -> None:
    assert kept_count(np.float32(0.5), 10) == 5  # type: ignore[arg-type]
    assert kept_count(np.int64(3), 10) == 3


@pytest.mark.parametrize("min_kept", [-1, -0.1, 1.5, float("nan")])
def test_impossible_min_kept(min_kept: float) -> None:
    with pytest.raises(ValueError, match="min_kept is"):
        kept_count(min_kept, 100)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e6])
def test_an_offset_of_all_logits_changes_nothing(offset: float) -> None:
    """Of float32 logits as they are: the offset itself rounds them, so the oracle sees the rounded ones."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 5, 16, 24, generator=generator) * 3 + offset
    index = torch.randint(0, 5, (2, 1, 16, 24), generator=generator)
    got = _true_probability(logits, index)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), oracle_true(logits, index[:, 0]), atol=1e-5)


def test_ties_at_the_threshold_are_all_kept() -> None:
    p = torch.tensor([0.1, 0.9, 0.9, 0.9, 0.95, 0.99]).view(1, 2, 3)
    valid = torch.ones_like(p, dtype=torch.bool)
    assert hard_pixels(p, valid, 0.7, 2).flatten().tolist() == [True, True, True, True, False, False]
    # P <= t, not p < t.
    assert hard_pixels(p, valid, 0.9, 0).flatten().tolist() == [
        True,
        True,
        True,
        True,
        False,
        False,
    ]


class _Elsewhere(torch.Tensor):
    """A CPU tensor that says it is on a GPU, so that the branch for devices runs here too."""

    @property
    def device(self) -> Any:  # type: ignore[override]
        return torch.device("cuda")


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000), void=st.sampled_from([0.0, 0.5, 0.98, 1.0]), ties=st.booleans(),
    min_kept=st.sampled_from([0, 1, 13, 126, 127, 9999, 0.0, 0.05, 0.5, 1.0]), threshold=st.sampled_from([0.01, 0.5, 0.9]),
)  # fmt: skip
def test_both_ways_of_selecting_agree(seed: int, void: float, ties: bool, min_kept: float, threshold: float) -> None:
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(2, 7, 9, generator=g)
    if ties:
        p = (p * 5).round() / 5
    valid = torch.rand(2, 7, 9, generator=g) >= void
    here = hard_pixels(p, valid, threshold, min_kept)
    there = hard_pixels(p.as_subclass(_Elsewhere), valid, threshold, min_kept)
    assert (here == there.as_subclass(torch.Tensor)).all()
    with pytest.MonkeyPatch.context() as patch:  # as on several GPUs, of which the others hold nothing
        patch.setattr(ranks, "several", lambda: True)
        among_others = hard_pixels(p.as_subclass(_Elsewhere), valid, threshold, min_kept)
    assert (here == among_others.as_subclass(torch.Tensor)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("min_kept", [0, 13, 0.05, 1.0])
def test_a_gpu_keeps_the_same_pixels(min_kept: float) -> None:
    student, teacher, _, target = drawn(7, h=64, w=64)
    here = teacher_student_evaluated(student, teacher, target, min_kept=min_kept)
    there = teacher_student_evaluated(student.cuda(), teacher.cuda(), target.cuda(), min_kept=min_kept)
    assert (here != there.cpu()).sum() <= 2  # other rounding may move a pixel over the threshold


@pytest.mark.parametrize("progress", [0.0, 0.5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("where", ["student", "teacher", "auxiliary"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_void_pixels_are_inert(progress: float, bad: float, where: str, temperature: float) -> None:
    names = ("student", "teacher", "auxiliary")
    student, teacher, auxiliary, target = drawn(5)
    loss = RelativeDifficultyLoss(temperature=temperature, ce_weight=0.5)

    def run(logits: dict[str, torch.Tensor]) -> tuple[float, torch.Tensor, torch.Tensor]:
        own, second = logits["student"].clone().requires_grad_(), logits["student"].clone().requires_grad_()
        result = loss(own, logits["teacher"], logits["auxiliary"], target, progress, second)
        result.total.backward()
        assert own.grad is not None
        assert second.grad is not None
        return result.total.item(), own.grad, second.grad

    clean = dict(zip(names, (student, teacher, auxiliary), strict=True))
    spoilt = clean | {where: torch.where((target == VOID)[:, None], bad, clean[where])}
    total, gradient, second = run(clean)
    got, got_gradient, got_second = run(spoilt)
    assert got == pytest.approx(total, abs=1e-6)
    valid = (target != VOID)[:, None].expand_as(gradient)
    for expected, found in ((gradient, got_gradient), (second, got_second)):
        assert (found[~valid] == 0).all()
        assert torch.allclose(found[valid], expected[valid], atol=1e-7)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_all_void_is_zero_with_a_zero_gradient(progress: float) -> None:
    student, teacher, auxiliary, target = drawn(6)
    student.requires_grad_()
    total = RelativeDifficultyLoss()(student, teacher, auxiliary, torch.full_like(target, VOID), progress).total
    total.backward()
    assert total.item() == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_an_empty_mask_is_zero_with_a_zero_gradient() -> None:
    student, _, _, target = drawn(8)
    student.requires_grad_()
    result = RelativeDifficultyLoss(tfe_fraction=0, kd_weight=0)(student, student.detach(), None, target, 0.5)
    result.total.backward()
    assert result.total.item() == 0
    assert student.grad is not None
    assert (student.grad == 0).all()
    assert not result.weight.any()


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_gradient_reaches_the_student_only(progress: float) -> None:
    student, teacher, auxiliary, target = drawn(9)
    for logits in (student, teacher, auxiliary):
        logits.requires_grad_()
    result = RelativeDifficultyLoss()(student, teacher, auxiliary, target, progress)
    result.total.backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert auxiliary.grad is None
    assert not any(term.requires_grad for term in (*result.terms.values(), result.weight))


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_gradient_is_that_of_the_formula(progress: float) -> None:
    student, teacher, auxiliary, target = drawn(10, n=1, h=3, w=4)
    loss = RelativeDifficultyLoss()
    student.requires_grad_()
    loss(student, teacher, auxiliary, target, progress).total.backward()
    assert student.grad is not None
    flat, gradient = student.detach().flatten(), student.grad.flatten()
    for at in range(0, flat.numel(), 7):
        values = []
        for sign in (1, -1):
            moved = flat.double().clone()
            moved[at] += sign * 1e-5
            values.append(oracle_loss(moved.view_as(student), teacher, auxiliary, target, progress))
        assert gradient[at].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_float32_also_under_autocast(progress: float) -> None:
    student, teacher, auxiliary, target = drawn(11)
    loss = RelativeDifficultyLoss()
    plain = loss(student, teacher, auxiliary, target, progress)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(student, teacher, auxiliary, target, progress)
        weight, mask = teacher_full_evaluated(teacher, auxiliary), teacher_student_evaluated(student, teacher, target)
    assert mixed.total.dtype == torch.float32
    assert mixed.total.item() == plain.total.item()
    assert torch.equal(mixed.weight, plain.weight)
    assert torch.equal(weight, teacher_full_evaluated(teacher, auxiliary))
    assert torch.equal(mask, teacher_student_evaluated(student, teacher, target))


def test_bf16_logits_are_computed_in_float32() -> None:
    student, teacher, auxiliary, target = drawn(12)
    low = [logits.bfloat16() for logits in (student, teacher, auxiliary)]
    got = RelativeDifficultyLoss()(*low, target, 0.0).total
    assert got.item() == pytest.approx(oracle_loss(*[logits.float() for logits in low], target, 0.0), abs=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.5])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_extreme_logits_stay_finite(progress: float, temperature: float) -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher, auxiliary = (1e4 * torch.randint(-1, 2, (2, 5, 7, 9), generator=g).float() for _ in range(3))
    target = torch.randint(0, 5, (2, 7, 9), generator=g)
    student.requires_grad_()
    result = RelativeDifficultyLoss(temperature=temperature)(student, teacher, auxiliary, target, progress)
    result.total.backward()
    assert result.total.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert result.weight.isfinite().all()


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_identical_networks_have_no_kd(progress: float) -> None:
    student, _, _, target = drawn(13)
    result = RelativeDifficultyLoss()(student, student, student, target, progress)
    assert result.terms["kd"].item() == 0
    if progress == 0.0:  # the classifiers agree everywhere: stage 1 is the plain cross-entropy
        assert result.terms["task"].item() == pytest.approx(
            F.cross_entropy(student, target, ignore_index=VOID).item(), abs=1e-6
        )


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_linear_hand_over_begins_after_stage_1(share: float) -> None:
    student, teacher, auxiliary, target = drawn(14)
    blended = RelativeDifficultyLoss(transition="linear", tfe_fraction=share)

    def total(loss: RelativeDifficultyLoss, progress: float) -> float:
        return float(loss(student, teacher, auxiliary, target, progress).total)

    first, second = (
        total(RelativeDifficultyLoss(tfe_fraction=1.0), 0.3),
        total(RelativeDifficultyLoss(tfe_fraction=0.0), 0.3),
    )
    for progress in (0.0, 0.05, 0.3, 0.6, 0.99):
        part = 1.0 if progress < share else (1 - progress) / (1 - share)
        assert blended.stage(progress) == ("tfe" if progress < share else "tfe+tse")
        assert total(blended, progress) == pytest.approx(part * first + (1 - part) * second, abs=1e-5)
    assert [RelativeDifficultyLoss(transition="linear", tfe_fraction=p).stage(0.5) for p in (0.0, 1.0)] == [
        "tse",
        "tfe",
    ]


def test_reduction_over_all_valid_pixels() -> None:
    student, teacher, _, target = drawn(15)
    mask = oracle_mask(student, teacher, target, 0.7, 0.05, "xor")
    ce, valid = -np.log(oracle_true(student, target)), (target != VOID).numpy()
    got = RelativeDifficultyLoss(tfe_fraction=0, reduction="all", kd_weight=0)(student, teacher, None, target, 0.5)
    assert got.total.item() == pytest.approx(ce[mask].sum() / valid.sum(), abs=1e-5)
    assert got.terms["kept"].item() == pytest.approx(mask.sum() / valid.sum(), abs=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), rule=st.sampled_from(RULES), min_kept=st.sampled_from([0, 30, 0.3]))
def test_a_students_auxiliary_head_has_a_mask_of_its_own_in_stage_2(seed: int, rule: Any, min_kept: float) -> None:
    student, teacher, second, target = drawn(seed)
    loss = RelativeDifficultyLoss(tfe_fraction=0, rule=rule, min_kept=min_kept)
    alone, both = loss(student, teacher, None, target, 0.5), loss(student, teacher, None, target, 0.5, second, 0.4)
    mask = oracle_mask(second, teacher, target, 0.7, min_kept, rule)
    expected = -np.log(oracle_true(second, target))[mask].mean() if mask.any() else 0.0
    assert both.total.item() - alone.total.item() == pytest.approx(0.4 * expected, abs=1e-5)
    assert torch.equal(both.weight, alone.weight)


def test_a_students_auxiliary_head_shares_the_teachers_weight_in_stage_1() -> None:
    student, teacher, auxiliary, target = drawn(16)
    second = drawn(17)[0]
    loss = RelativeDifficultyLoss(tfe_fraction=1)
    alone, both = (loss(student, teacher, auxiliary, target, 0.5, *more) for more in ((), (second, 0.4)))
    expected = (alone.weight.numpy() * -np.log(oracle_true(second, target)))[(target != VOID).numpy()].mean()
    assert both.total.item() - alone.total.item() == pytest.approx(0.4 * expected, abs=1e-5)


@pytest.mark.parametrize("reduction", ["kept", "all"])
def test_class_weights_are_those_of_cross_entropy(reduction: Any) -> None:
    student, teacher, second, target = drawn(20)
    weights = torch.tensor([0.2, 1.0, 3.0, 5.0, 0.7])
    loss = RelativeDifficultyLoss(tfe_fraction=0, class_weight=weights, reduction=reduction, kd_weight=0)
    plain = RelativeDifficultyLoss(tfe_fraction=0)(student, teacher, None, target, 0.5)
    student.requires_grad_()
    got = loss(student, teacher, None, target, 0.5, second, 0.4)
    expected = []
    for logits in (student, second):
        mask = torch.from_numpy(oracle_mask(logits, teacher, target, 0.7, 0.05, "xor"))
        kept = torch.where(mask, target, VOID)
        if reduction == "kept":
            expected.append(F.cross_entropy(logits, kept, weights, ignore_index=VOID))
        else:
            sums = F.cross_entropy(logits, kept, weights, ignore_index=VOID, reduction="sum")
            expected.append(sums / weights[target[target != VOID]].sum())
    total = expected[0] + 0.4 * expected[1]
    assert got.total.item() == pytest.approx(total.item(), abs=1e-5)
    assert torch.allclose(torch.autograd.grad(got.total, student)[0], torch.autograd.grad(total, student)[0], atol=1e-6)
    assert torch.equal(got.weight, plain.weight)
    assert got.terms["kept"] == plain.terms["kept"]
    assert not loss.state_dict(), "they are counted from the data, not resumed"


def test_class_weights_leave_stage_1_and_empty_masks_alone() -> None:
    student, teacher, auxiliary, target = drawn(21)
    weights = torch.tensor([0.2, 1.0, 3.0, 5.0, 0.7])
    first, second = (
        RelativeDifficultyLoss(class_weight=one)(student, teacher, auxiliary, target, 0.0).total.item()
        for one in (None, weights)
    )
    assert first == second
    nothing = RelativeDifficultyLoss(class_weight=weights)(student, teacher, None, torch.full_like(target, VOID), 0.5)
    assert nothing.total.item() == 0


def test_parts_add_up_to_the_total_and_are_those_with_a_weight() -> None:
    student, teacher, auxiliary, target = drawn(22)
    student.requires_grad_()
    got = RelativeDifficultyLoss(kd_weight=0.5, ce_weight=0.3)(student, teacher, auxiliary, target, 0.0, student)
    assert list(got.parts) == ["task", "kd", "ce"]
    gradient = sum(torch.autograd.grad(part, student, retain_graph=True)[0] for part in got.parts.values())
    assert torch.allclose(gradient, torch.autograd.grad(got.total, student)[0], atol=1e-7)
    assert got.total.item() == pytest.approx(sum(part.item() for part in got.parts.values()), abs=1e-6)
    assert list(RelativeDifficultyLoss(kd_weight=0)(student, teacher, auxiliary, target, 0.0).parts) == ["task"]


def test_unweighted_is_plain_ce_and_kd() -> None:
    student, teacher, _, target = drawn(17)
    loss = RelativeDifficultyLoss(weighted=False)
    got = loss(student, teacher, None, target, 0.0)
    assert loss.stage(0.0) == "kd"
    assert got.terms["task"].item() == pytest.approx(
        F.cross_entropy(student, target, ignore_index=VOID).item(), abs=1e-6
    )


@pytest.mark.parametrize(("share", "total"), [(0.1, 100), (0.1, 70), (0.3, 20), (0.0, 10), (1.0, 10), (0.25, 10)])
def test_stages_switch_at_their_share(share: float, total: int) -> None:
    loss = RelativeDifficultyLoss(tfe_fraction=share)
    stages = [loss.stage(step / total) for step in range(total)]
    first = math.ceil(round(share * total, 9))
    assert stages == ["tfe"] * first + ["tse"] * (total - first)


def test_wrong_sizes_and_rules_are_refused() -> None:
    student, teacher, auxiliary, target = drawn(18)
    with pytest.raises(ValueError, match="resize the logits to the target first"):
        teacher_student_evaluated(student[..., :5], teacher[..., :5], target)
    with pytest.raises(ValueError, match="resize the logits to the target first"):
        teacher_student_evaluated(student, teacher, target[:1])
    with pytest.raises(ValueError, match="expected 'xor', 'and', 'or', 'lead' or 'student'"):
        teacher_student_evaluated(student, teacher, target, rule="nor")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use tfe_fraction=0"):
        RelativeDifficultyLoss()(student, teacher, None, target, 0.0)
    assert auxiliary is not None


def test_another_void_label() -> None:
    student, teacher, _, target = drawn(19)
    other = torch.where(target == VOID, -100, target)
    got = teacher_student_evaluated(student, teacher, other, ignore_index=-100)
    assert torch.equal(got, teacher_student_evaluated(student, teacher, target))
    assert torch.equal(got, teacher_student_evaluated(student, teacher, target.to(torch.uint8)))


@settings(max_examples=20)
@given(
    seed=st.integers(0, 999), rule=st.sampled_from(["xor", "and", "lead", "student"]), least=st.sampled_from([2, 0.5])
)
def test_each_class_that_is_there_keeps_its_hardest_pixels(seed: int, rule: Any, least: float) -> None:
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (2, 6, 7), generator=g)
    target[0, 0, :5], target[1, 1, :3] = 2, 255
    student, teacher = torch.randn(2, 4, 6, 7, generator=g), torch.randn(2, 4, 6, 7, generator=g)
    options: dict[str, Any] = {"threshold": 0.01, "min_kept": 0, "rule": rule}
    plain = teacher_student_evaluated(student, teacher, target, **options)
    kept = teacher_student_evaluated(student, teacher, target, min_kept_per_class=least, **options)
    assert (kept | plain).equal(kept)
    probability = student.softmax(1).gather(1, target.clamp(max=3)[:, None])[:, 0]
    for c in range(3):
        own = target == c
        wanted = least if least == 2 else -int(-0.5 * own.sum() // 1)
        assert kept[own].sum() >= wanted
        hardest = probability[own].sort().values[wanted - 1]
        assert kept[own & (probability < hardest * 0.999)].all()
    loss = RelativeDifficultyLoss(tfe_fraction=0, min_kept_per_class=least, **options)
    assert loss(student, teacher, None, target, 0.5).weight.bool().equal(kept)


def test_balanced_weighs_the_pixels_of_stage_1_and_of_plain_kd_as_the_task_loss_does() -> None:
    student, teacher, auxiliary, target = drawn(30)
    weights, valid = torch.tensor([0.2, 1.0, 3.0, 5.0, 0.7]), target != VOID
    alone = TaskLoss("balanced", weights)(student, target).item()
    kd = RelativeDifficultyLoss(weighted=False, class_weight=weights, balanced=True)
    got = kd(student, teacher, None, target, 0.5)
    assert got.terms["task"].item() == pytest.approx(alone, abs=1e-6)
    assert torch.equal(got.weight, valid.float()), "the pictures show the pixels' weights, not the classes'"
    first = RelativeDifficultyLoss(tfe_fraction=1, class_weight=weights, balanced=True)
    same = first(student, teacher, teacher, target, 0.5)  # both classifiers agree everywhere
    assert same.terms["task"].item() == pytest.approx(alone, abs=1e-6)
    agreed = teacher_full_evaluated(teacher, auxiliary)
    each = weights[torch.where(valid, target, 0)] * valid
    ce = F.cross_entropy(student, target, ignore_index=VOID, reduction="none")
    expected = (agreed * each * ce).sum() / each.sum()
    assert first(student, teacher, auxiliary, target, 0.5).terms["task"].item() == pytest.approx(
        expected.item(), abs=1e-6
    )


@pytest.mark.parametrize("least", [0, 3, 0.3])
def test_ohem_is_the_task_loss_of_plain_kd(least: float) -> None:
    student, teacher, _, target = drawn(31)
    got = RelativeDifficultyLoss(weighted=False, ohem=least)(student, teacher, None, target, 0.5)
    assert got.terms["task"].item() == pytest.approx(
        TaskLoss("ohem", min_kept_per_class=least)(student, target).item(), abs=1e-6
    )
    assert 0 < got.terms["kept"].item() < 1
