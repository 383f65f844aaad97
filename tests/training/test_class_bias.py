from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from toys import read_json, teacher_tree, write_data, write_recipe

from rdd_deploy.data.open import open_data
from rdd_deploy.evaluation import evaluate_run
from rdd_deploy.models import HEADS
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_segmenter
from rdd_deploy.recipe import load_recipe
from rdd_deploy.training import class_bias
from rdd_deploy.training.class_bias import STEP, add_offsets, fit_class_bias, fit_offsets, miou
from rdd_deploy.training.supervised import train_recipe


def imbalanced(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a network that says the likeliest class, of three of which one is rare."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, 4000, p=[0.7, 0.27, 0.03])
    seen = np.eye(3)[classes] * 1.3 + rng.normal(size=(4000, 3))
    return (seen * 1.3 + np.log([0.7, 0.27, 0.03])).astype(np.float32), classes


@pytest.mark.parametrize("seed", range(3))
def test_offsets_raise_miou_and_no_single_step_raises_it_further(seed: int) -> None:
    logits, classes = imbalanced(seed)
    offsets = fit_offsets(logits, classes)
    best = miou(logits + offsets, classes)
    assert best > miou(logits, classes) + 0.01
    assert offsets.mean() == pytest.approx(0, abs=1e-6)
    for c in range(3):
        for step in np.arange(-8, 9) * STEP:
            moved = offsets + np.where(np.arange(3) == c, step, 0)
            assert miou(logits + moved.astype(np.float32), classes) <= best + 1e-5


def test_they_help_on_pixels_that_they_were_not_fitted_on() -> None:
    offsets = fit_offsets(*imbalanced(0))
    logits, classes = imbalanced(1)
    assert miou(logits + offsets, classes) > miou(logits, classes) + 0.005


@pytest.mark.parametrize("head", HEADS)
def test_offsets_are_added_to_every_pixels_logits(head: str) -> None:
    torch.manual_seed(0)
    network = Segmenter(Network(encoder="mobilenetv3_small_050", weights="none", channels=16, head=head), 4).eval()
    for weight in network.head.parameters():  # as trained ones, none is zero
        torch.nn.init.normal_(weight, std=0.3)
    frames, offsets = (
        torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8),
        np.array([0.5, -1.0, 0.0, 2.0], np.float32),
    )
    with torch.inference_mode():
        before = network(frames).primary
        add_offsets(network, offsets)
        torch.testing.assert_close(
            network(frames).primary, before + torch.from_numpy(offsets)[:, None, None], atol=1e-4, rtol=1e-4
        )


def test_a_run_keeps_them_only_where_validation_gains(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    write_recipe(tmp_path / "t.yaml", teacher_tree(data))
    recipe = load_recipe(tmp_path / "t.yaml", ["train.class_bias=true"])
    folder = train_recipe(recipe, tmp_path / "runs")
    summary, (_, facts) = read_json(folder.summary), load_segmenter(folder.weights())
    said = summary["class_bias"]
    assert said["kept"] == (said["miou_pct_with"] > said["miou_pct_without"]) == ("class_bias" in facts)
    assert summary["best"]["miou_pct"] == facts["miou_pct"] == max(said["miou_pct_with"], said["miou_pct_without"])
    assert evaluate_run(folder.path).summary["miou_pct"] == pytest.approx(summary["best"]["miou_pct"], abs=0.01)
    # Resumed after its end, they aren't added twice.
    before = folder.weights().read_bytes()
    train_recipe(recipe, tmp_path / "runs", resume=True)
    assert folder.weights().read_bytes() == before
    assert read_json(folder.summary)["class_bias"] == said


@pytest.mark.parametrize(("measured", "share"), [((0.9, 0.8), 1.0), ((0.8, 0.9), 0.5), ((0.0, 0.0), None)])
def test_validation_says_whether_all_half_or_none_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: tuple[float, float], share: float | None
) -> None:
    data, values = write_data(tmp_path / "data"), iter(measured)
    write_recipe(tmp_path / "t.yaml", teacher_tree(data))
    recipe = load_recipe(tmp_path / "t.yaml")
    file = train_recipe(recipe, tmp_path / "runs").weights()
    before, facts = load_segmenter(file)
    offsets = np.array([1.0, -0.5, -0.5], np.float32)
    monkeypatch.setattr(class_bias, "fit_offsets", lambda *_: offsets)
    monkeypatch.setattr(class_bias, "evaluate_split", lambda *_: SimpleNamespace(miou=next(values)))
    split = open_data(recipe.data, "train", fetch=False)
    said = fit_class_bias(recipe, split, split, file, Fabric(accelerator="cpu"))
    after, now = load_segmenter(file)
    assert said["kept"] == (share is not None) == ("class_bias" in now)
    assert now["miou_pct"] == (facts["miou_pct"] if share is None else 90)
    assert (after.head.bias - before.head.bias).tolist() == pytest.approx((offsets * (share or 0)).tolist(), abs=1e-6)
    assert list(said["offsets"].values()) == pytest.approx((offsets * (1 if share is None else share)).tolist())
