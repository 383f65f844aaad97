import math

import pytest
import timm
import torch
from pydantic import ValidationError
from toys import CLASSES, write_data

from rdd_deploy.data.open import open_split
from rdd_deploy.errors import RecipeError
from rdd_deploy.metrics import evaluate_split
from rdd_deploy.models import HEADS
from rdd_deploy.models import segmenter as segmenter_module
from rdd_deploy.models.build import build
from rdd_deploy.models.config import Network
from rdd_deploy.models.encoder_names import check_encoder, encoder_names
from rdd_deploy.models.heads import FeatureInfo
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Segmenter
from rdd_deploy.outputs import resized

ENCODER = "mobilenetv3_small_050"
ENCODERS = (ENCODER, "lcnet_050", "resnet10t", "test_convnext")


def made(**changes: object) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(
        Network.model_validate({"encoder": ENCODER, "weights": "none", "channels": 16, "auxiliary": True} | changes), 5
    )


def frames(n: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_odd_frame_through_every_head_and_encoder(head: str, encoder: str) -> None:
    segmenter = made(head=head, encoder=encoder).eval()
    for height, width in ((119, 157), (32, 32), (45, 64)):
        with torch.inference_mode():
            output = segmenter(frames(1, height, width))
        assert output.auxiliary is not None
        for logits in output[:2]:
            assert (logits.dtype, tuple(logits.shape)) == (torch.float32, (1, 5, height, width))
            assert logits.isfinite().all()


def test_an_encoder_that_knows_no_output_stride() -> None:
    with torch.inference_mode():
        output = made(encoder="densenet121").eval()(frames(1, 72, 104))
    assert tuple(output.primary.shape) == (1, 5, 72, 104)


@pytest.mark.parametrize("encoder", ["dla46_c", "hrnet_w18_small"])
def test_an_encoder_of_certain_frame_sizes_is_padded(encoder: str) -> None:
    segmenter = made(encoder=encoder).eval()
    assert segmenter.frame_sizes == (32, None, False)
    with torch.inference_mode():
        for height, width in ((72, 104), (96, 64), (45, 60)):
            x = torch.rand(1, 3, height, width)
            maps = segmenter.frame_sizes.features(segmenter.encoder, x)
            strides = segmenter.encoder.feature_info.reduction()
            assert [tuple(m.shape[-2:]) for m in maps] == [
                (math.ceil(height / s), math.ceil(width / s)) for s in strides
            ]
            assert tuple(segmenter(frames(1, height, width)).primary.shape) == (1, 5, height, width)
        # Where nothing needs padding, nothing is changed.
        x = torch.rand(1, 3, 64, 96)
        assert all(
            torch.equal(a, b)
            for a, b in zip(segmenter.frame_sizes.features(segmenter.encoder, x), segmenter.encoder(x), strict=True)
        )


def test_building_a_network_leaves_no_trace() -> None:
    """Trying the encoder's frame sizes touches neither its statistics nor the random state."""
    torch.manual_seed(1)
    timm.create_model(ENCODERS[0], features_only=True, output_stride=16)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    segmenter = made(encoder=ENCODERS[0])
    assert segmenter.training
    assert all(int(m.num_batches_tracked) == 0 for m in segmenter.modules() if isinstance(m, torch.nn.BatchNorm2d))
    torch.manual_seed(1)
    segmenter_module._fitting_encoder(segmenter.network)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_strides_and_training(head: str, stride: int) -> None:
    segmenter = made(head=head, output_stride=stride).train()
    output = segmenter(frames(2, 64, 80))
    (output.primary.mean() + output.auxiliary.mean()).backward()
    without = [name for name, p in segmenter.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("head", ["lraspp", "pspnet"])
def test_a_batch_of_one_trains(head: str) -> None:
    output = made(head=head).train()(frames(1, 64, 64))
    output.primary.mean().backward()
    assert output.primary.isfinite().all()


def test_frames_are_raw_bytes() -> None:
    with pytest.raises(TypeError, match=r"frames are torch\.float32; expected raw uint8 RGB"):
        made()(torch.zeros(1, 3, 64, 64))


def test_normalisation_is_inside_and_the_encoders_own() -> None:
    segmenter = made(encoder="tf_efficientnet_lite0").eval()
    assert segmenter.mean.flatten().tolist() == pytest.approx([127.5] * 3)
    assert not {"mean", "std"} & set(segmenter.state_dict()), "constants don't belong into checkpoints"
    seen: list[torch.Tensor] = []
    segmenter.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        segmenter(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    assert torch.allclose(seen[0], torch.ones(()), atol=1e-6)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (
            {"encoder": "mobilnetv3_small_050"},
            r"unknown encoder 'mobilnetv3_small_050'; did you mean mobilenetv3_small_050 or ",
        ),
        ({"encoder": "zzzzqqqq"}, r"unknown encoder 'zzzzqqqq'; see timm\.list_models\(\)"),
        (
            {"encoder": "inception_v4", "output_stride": 8},
            r"^encoder 'inception_v4' can't run at output_stride 8; set student\.output_stride=auto",
        ),
        (
            {"encoder": "densenet121", "output_stride": 16},
            (
                r"^encoder 'densenet121' can't run at output_stride 16; set student\.output_stride=auto \(in a teacher"
                r" recipe net"
            ),
        ),
    ],
)
def test_encoders_that_are_none(network: dict[str, object], sentence: str) -> None:
    with pytest.raises((RecipeError, ValidationError), match=sentence):
        made(**network)


def test_names_are_those_that_timm_registers() -> None:
    models, former = encoder_names()
    assert models == set(timm.list_models())
    assert all(timm.is_model(name) for name in former)
    assert not models & former


def test_known_encoders_pass_the_early_check() -> None:
    for name in (*ENCODERS, "resnet18.a1_in1k"):
        check_encoder(name)


def test_dropping_squeeze_excite_and_swapping_activations() -> None:
    names = {type(m).__name__ for m in made(squeeze_excite=False, activation="relu6").encoder.modules()}
    assert not {"SqueezeExcite", "Hardswish", "HardSwish"} & names
    assert "ReLU6" in names


def test_shape_picks_the_coarsest_map_within_a_stride() -> None:
    shape = FeatureInfo([8, 16, 32, 64], [2, 4, 8, 16])
    assert [shape.at_most(stride) for stride in (1, 2, 4, 8, 9, 32)] == [0, 0, 1, 2, 2, 3]


def test_resized_is_half_pixel_aligned() -> None:
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    grown = resized(ramp, (4, 16))
    assert torch.allclose(grown[0, 0, 0, 1:-1], torch.arange(16.0)[1:-1] / 2 - 0.25)
    assert resized(ramp, (4, 8)) is ramp


def test_evaluation_does_not_depend_on_the_batch(tmp_path: object) -> None:
    split = open_split("folder", write_data(tmp_path, val=5, height=50, width=71), "val", classes=CLASSES)  # type: ignore[arg-type]
    torch.manual_seed(3)
    segmenter = Segmenter(Network(encoder=ENCODER, weights="none", channels=16), 3).eval()
    matrices = [evaluate_split(torch_predictor(segmenter, (64, 64)), split, batch).matrix for batch in (1, 2, 5, 8)]
    for matrix in matrices:
        assert matrix.sum() == matrices[0].sum()
        # Another batch may take another kernel, whose last bit may move a pixel.
        assert abs(matrix - matrices[0]).sum() <= 4


@pytest.mark.parametrize(
    ("encoder", "fixed"), [("vit_tiny_patch16_224", None), ("swin_tiny_patch4_window7_224", (224, 224))]
)
def test_transformers_take_any_size(encoder: str, fixed: tuple[int, int] | None) -> None:
    segmenter = made(encoder=encoder, auxiliary=False).eval()
    assert (segmenter.frame_sizes.multiple, segmenter.frame_sizes.fixed) == (1, fixed)
    with torch.inference_mode():
        assert tuple(segmenter(frames(1, 72, 104)).primary.shape) == (1, 5, 72, 104)


def test_an_encoder_of_one_frame_size_sees_resized_frames(capsys: pytest.CaptureFixture[str]) -> None:
    segmenter, _ = build(Network(encoder="cait_xxs24_224", weights="none"), ["a", "b", "c"], "student")
    assert segmenter.frame_sizes == (1, (224, 224), False)
    assert (
        "encoder 'cait_xxs24_224' only takes frames of 224x224: every frame is resized to that inside"
        in capsys.readouterr().err
    )
    with torch.inference_mode():
        assert tuple(segmenter(frames(1, 72, 104)).primary.shape) == (1, 3, 72, 104)


def test_maps_come_in_one_order_in_every_process() -> None:
    """What processes exchange map by map; a set of texts has another order in each."""
    wanted = frozenset({"stage3", "logits", "head", "auxiliary", "stage1"})
    features = made(head="lraspp").eval()(frames(1, 64, 64), wanted).features
    assert list(features) == sorted(wanted)
