from pathlib import Path

import pytest
import torch

from rdd_deploy.export.onnx.export import Deployed
from rdd_deploy.models import merge as merging
from rdd_deploy.models.config import Network
from rdd_deploy.models.merge import TOLERANCE, has_branches, merge_checked, merge_error
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.models.weights import load_segmenter, save_segmenter


@pytest.fixture
def branched() -> Segmenter:
    """A small network that trains with branches, with statistics that aren't those of a new one."""
    torch.manual_seed(0)
    segmenter = Segmenter(Network(encoder="repghostnet_050", weights="none", channels=16), 3)
    with torch.no_grad():
        segmenter.train()(frames(4))
    return segmenter.eval()


def frames(count: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def logits(segmenter: Segmenter) -> torch.Tensor:
    with torch.inference_mode():
        return segmenter(frames()).primary


@pytest.mark.parametrize(
    "encoder",
    [
        "repvit_m0_9", "fastvit_t8",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobileone_s0", "ghostnetv3_100", "repvgg_a0")),
    ],
)  # fmt: skip
def test_the_families_that_docs_name_are_merged_within_the_tolerance(encoder: str) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(Network(encoder=encoder, weights="none", channels=16), 3)
    with torch.no_grad():
        segmenter.train()(frames(4))
    assert has_branches(segmenter.eval())
    before, deployed = logits(segmenter), Deployed(segmenter)
    error = merge_error(segmenter)
    assert error is not None
    assert error <= TOLERANCE
    assert sum(one.numel() for one in deployed.parameters()) < sum(one.numel() for one in segmenter.parameters())
    assert (logits(deployed.unfolded(segmenter)) - before).abs().max() <= TOLERANCE * before.abs().max()


def test_branches_are_merged_at_deployment_and_only_there(branched: Segmenter, tmp_path: Path) -> None:
    trained, before = {name: value.clone() for name, value in branched.state_dict().items()}, logits(branched)
    error = merge_error(branched)
    deployed = Deployed(branched)
    assert error is not None
    assert error <= TOLERANCE
    assert {name: value.equal(trained[name]) for name, value in branched.state_dict().items()} == dict.fromkeys(
        trained, True
    )
    convolutions = [
        sum(isinstance(one, torch.nn.Conv2d) for one in network.encoder.modules()) for network in (branched, deployed)
    ]
    norms = [
        sum(isinstance(one, torch.nn.BatchNorm2d) for one in network.encoder.modules())
        for network in (branched, deployed)
    ]
    assert convolutions[1] <= convolutions[0]
    assert norms[1] < norms[0]
    # What fine-tuning gives back is the deployed form, and a checkpoint of it says so.
    tuned = deployed.unfolded(branched)
    assert tuned.merged
    assert (logits(tuned) - before).abs().max() <= TOLERANCE * before.abs().max()
    save_segmenter(tmp_path / "tuned.safetensors", tuned, {"classes": ["a", "b", "c"]})
    loaded, facts = load_segmenter(tmp_path / "tuned.safetensors")
    assert facts["merged_branches"] is True
    assert logits(loaded).equal(logits(tuned))
    assert not has_branches(loaded)


def test_what_cant_be_merged_exactly_is_deployed_as_it_was_trained(
    branched: Segmenter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    merge = merging.reparameterize_model

    def spoilt(model: torch.nn.Module) -> torch.nn.Module:
        merged = merge(model)
        with torch.no_grad():
            next(merged.parameters()).mul_(1.5)
        return merged

    before = logits(branched)
    monkeypatch.setattr(merging, "reparameterize_model", spoilt)
    assert merge_checked(branched) is None
    assert not branched.merged
    assert logits(branched).equal(before)
    assert "its branches can't be merged" in capsys.readouterr().err


def test_encoders_without_branches_stay() -> None:
    plain = Segmenter(Network(encoder="test_efficientnet", weights="none", channels=16), 3).eval()
    assert merge_error(plain) is None
    assert not Deployed(plain).merged
