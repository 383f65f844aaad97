import pytest
import torch
from toys import CLASSES, ENCODER, write_data

from rdd_deploy.data import open_split
from rdd_deploy.errors import RecipeError
from rdd_deploy.evaluate import evaluate_split
from rdd_deploy.models.heads import HEADS, Shape, resized
from rdd_deploy.models.predict import torch_predictor
from rdd_deploy.models.segmenter import Segmenter, check_encoder
from rdd_deploy.prepare import build
from rdd_deploy.recipe import Network

ENCODERS = (ENCODER, "lcnet_050", "resnet10t", "test_convnext")


def made(**changes: object) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(Network.model_validate({"encoder": ENCODER, "weights": "none", "channels": 16, "auxiliary": True} | changes), 5)


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
        for logits in output:
            assert (logits.dtype, tuple(logits.shape)) == (torch.float32, (1, 5, height, width))
            assert logits.isfinite().all()


def test_an_encoder_that_knows_no_output_stride() -> None:
    with torch.inference_mode():
        output = made(encoder="densenet121", output_stride=32).eval()(frames(1, 72, 104))
    assert tuple(output.primary.shape) == (1, 5, 72, 104)


def test_an_encoder_of_certain_frame_sizes_names_them() -> None:
    network = Network(encoder="dla46_c", weights="none", output_stride=32)
    sentence = (
        r"^encoder 'dla46_c' only takes frames whose height and width are multiples of 32, not 72x104; set data\.size and augment\.crop"
    )
    with pytest.raises(RecipeError, match=sentence):
        build(network, 3, "student", [(64, 96), (72, 104)])
    with pytest.raises(RecipeError, match=sentence):
        build(network, 3, "student")
    build(network, 3, "student", [(64, 96), (96, 96)])


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
        ({"encoder": "mobilnetv3_small_050"}, r"^unknown encoder 'mobilnetv3_small_050'; did you mean mobilenetv3_small_050 or "),
        ({"encoder": "zzzzqqqq"}, r"^unknown encoder 'zzzzqqqq'; see timm\.list_models\(\)$"),
        (
            {"encoder": "inception_v4", "output_stride": 8},
            r"^encoder 'inception_v4' can't run at output_stride 8; set student\.output_stride=32",
        ),
        (
            {"encoder": "densenet121"},
            r"^encoder 'densenet121' can't run at output_stride 16; set student\.output_stride=32 \(in a teacher recipe net",
        ),
        ({"encoder": "hrnet_w18_small"}, r"^encoder 'hrnet_w18_small' can't run at output_stride 16; set student\.output_stride=32"),
    ],
)
def test_encoders_that_are_none(network: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        made(**network)


def test_known_encoders_pass_the_early_check() -> None:
    for name in (*ENCODERS, "resnet18.a1_in1k"):
        check_encoder(name)


def test_dropping_squeeze_excite_and_swapping_activations() -> None:
    names = {type(m).__name__ for m in made(squeeze_excite=False, activation="relu6").encoder.modules()}
    assert not {"SqueezeExcite", "Hardswish", "HardSwish"} & names
    assert "ReLU6" in names


def test_shape_picks_the_coarsest_map_within_a_stride() -> None:
    shape = Shape([8, 16, 32, 64], [2, 4, 8, 16])
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
        assert abs(matrix - matrices[0]).sum() <= 4  # another batch may take another kernel, whose last bit may move a pixel


@pytest.mark.parametrize("encoder", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_encoders_of_one_frame_size_are_refused_when_they_are_built(encoder: str) -> None:
    with pytest.raises(RecipeError, match=rf"encoder '{encoder}' with head 'lraspp' can't segment frames of any size \(Input height"):
        build(Network(encoder=encoder, weights="none", output_stride=32), 3, "student")
