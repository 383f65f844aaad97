"""Learning rates by stage: what comes first in the encoder moves least."""

from pathlib import Path

import pytest
import torch
from torch import nn
from toys import network, tree, write_data, write_recipe

from rdd_deploy.data.loader import Batch
from rdd_deploy.models.build import encoder_stages
from rdd_deploy.models.config import Network
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.outputs import Output
from rdd_deploy.recipe import load_recipe
from rdd_deploy.recipe_train import Train
from rdd_deploy.training.fabric import make_fabric
from rdd_deploy.training.state import Loss, Objective, TrainState
from rdd_deploy.training.supervised import train_recipe


class Owning(Objective):
    """An objective with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, output: Output, batch: Batch, progress: float) -> Loss:
        return Loss((self.scale * output.primary).mean(), {})


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_a_parameter_is_of_the_first_map_that_needs_it(encoder: str) -> None:
    segmenter = Segmenter(Network(**network(encoder=encoder)), 3).train()
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    random = torch.get_rng_state()
    stages = encoder_stages(segmenter)
    assert set(stages) == {name for name, _ in segmenter.named_parameters() if name.startswith("encoder.")}
    order = list(stages.values())
    assert order == sorted(order), "the encoders' parameters come in the order of their stages"
    assert set(order) == set(range(len(segmenter.encoded(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)))))
    assert segmenter.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(
        torch.equal(value, before[name])
        for name, value in segmenter.state_dict().items()
        if "num_b" not in name and "running" not in name
    )


def rates(**train: float) -> tuple[Segmenter, TrainState, dict[int, float]]:
    segmenter, config = Segmenter(Network(**network(auxiliary=True)), 3), Train(device="cpu", lr=0.1, **train)
    state = TrainState(segmenter, Owning(), config, make_fabric(config))
    found = {
        id(one): lr
        for group, lr in zip(state.optimizer.param_groups, state.lrs, strict=True)
        for one in group["params"]
    }
    return segmenter, state, found


def test_rates_fall_by_stage() -> None:
    segmenter, state, found = rates(layer_decay=0.5, head_lr_factor=3.0)
    stages = encoder_stages(segmenter)
    last = max(stages.values())
    for name, parameter in segmenter.named_parameters():
        expected = 0.1 * 0.5 ** (1 + last - stages[name]) if name in stages else 0.3
        assert found[id(parameter)] == pytest.approx(expected), name
    assert found[id(state._step.objective.scale)] == pytest.approx(0.3)
    plain = rates(head_lr_factor=3.0)[1]
    assert [round(lr, 9) for lr in plain.lrs] == [0.1, 0.1, 0.3, 0.3], "as without the key: older states fit"


def test_trained_and_resumed(tmp_path: Path) -> None:
    content = tree(write_data(tmp_path / "data"))
    content["train"] |= {"layer_decay": 0.7, "epochs": 1, "optimizer": "adamw", "loggers": ["csv"]}
    recipe = load_recipe(write_recipe(tmp_path / "toy.yaml", content))
    done = train_recipe(recipe, tmp_path / "runs")
    assert train_recipe(recipe, tmp_path / "runs", resume=True).path == done.path
