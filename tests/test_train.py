from pathlib import Path

import pytest
import torch
from toys import CLASSES, read_json, teacher_tree, tree, write_data, write_recipe

from rdd_deploy.data.loader import Batch
from rdd_deploy.evaluation import evaluate_run
from rdd_deploy.models.weights import load_segmenter
from rdd_deploy.outputs import Output
from rdd_deploy.recipe import load_recipe
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.supervised import SupervisedObjective, train_recipe


@pytest.mark.parametrize("task_loss", ["ce", "ohem", "balanced"])
def test_a_teacher(tmp_path: Path, task_loss: str) -> None:
    root = write_data(tmp_path / "data")
    content = teacher_tree(root)
    content["train"] |= {"task_loss": task_loss, "pictures_every": 1}
    folder = train_recipe(load_recipe(write_recipe(tmp_path / "big.yaml", content)), tmp_path / "runs")
    assert folder.path.name == "big"
    assert folder.weights() == folder.teacher
    segmenter, facts = load_segmenter(folder.teacher, CLASSES)
    assert segmenter.auxiliary is not None
    assert (facts["size"], facts["classes"], facts["epoch"]) == ([64, 64], CLASSES, 1)
    assert [path.name for path in folder.pictures.iterdir()] == ["epoch_001.png"]


def test_a_student_alone_learns_and_is_measured_alike_afterwards(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", train=8)
    content = tree(root)
    content["train"] |= {"epochs": 12, "batch": 4, "optimizer": "adamw", "lr": 0.01}
    content["evaluation"] = {"every": 3}
    folder = train_recipe(load_recipe(write_recipe(tmp_path / "small.yaml", content)), tmp_path / "runs")
    assert folder.path.name == "small_alone"
    summary = read_json(folder.summary)
    assert summary["kind"] == "train"
    assert summary["best"]["miou_pct"] > 45, "three coloured stripes are learned in seconds"
    measured = evaluate_run(folder.path)
    assert measured.summary["miou_pct"] == pytest.approx(summary["best"]["miou_pct"], abs=0.2)
    assert measured.protocol == summary["protocol"]


def test_the_region_loss_joins_the_task_loss_by_its_weight() -> None:
    g = torch.Generator().manual_seed(0)
    output = Output(torch.randn(2, 3, 8, 8, generator=g), torch.randn(2, 3, 8, 8, generator=g))
    batch = Batch(
        torch.zeros(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8), generator=g), torch.zeros(2, 5), torch.arange(2)
    )
    plain, joined = (
        SupervisedObjective(Train.model_validate(given), torch.ones(3))(output, batch, 0.0)
        for given in ({}, {"region_loss": "lovasz", "region_weight": 0.5})
    )
    assert list(joined.terms) == ["task", "region", "auxiliary"]
    assert (joined.total - plain.total).item() == pytest.approx(0.5 * joined.terms["region"].item(), abs=1e-6)
