"""Hugging Face's segmenters as teachers: their own labels by their own processors. Importing transformers takes
seconds.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rdd_deploy.errors import MissingPackageError, WeightsError
from rdd_deploy.models.teachers.hugging_face import load, without_losses
from rdd_deploy.outputs import resized

NAMES = {0: "left", 1: "middle", 2: "right"}
IDS = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
SQUARE = {"height": 64, "width": 64}


def networks(kind: str) -> tuple[Any, Any]:
    """A tiny one of each kind, with its image processor."""
    import transformers as hf

    if kind == "segformer":
        config = hf.SegformerConfig(
            depths=[1] * 4,
            hidden_sizes=[8, 16, 16, 16],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
            **IDS,
        )
        return hf.SegformerForSemanticSegmentation(config), hf.SegformerImageProcessor(size=SQUARE)
    if kind == "upernet":
        inner = hf.ConvNextConfig(
            depths=[1] * 4, hidden_sizes=[8, 16, 16, 24], out_features=[f"stage{i}" for i in range(1, 5)]
        )
        config = hf.UperNetConfig(
            backbone_config=inner,
            hidden_size=16,
            auxiliary_in_channels=16,
            auxiliary_channels=8,
            pool_scales=[1, 2],
            **IDS,
        )
        return hf.UperNetForSemanticSegmentation(config), hf.SegformerImageProcessor(size=SQUARE)
    common = {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 64,
        "patch_size": 16,
        **IDS,
    }
    if kind == "dpt":
        sizes = {
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8] * 4,
            "fusion_hidden_size": 8,
            "readout_type": "ignore",
        }
        return hf.DPTForSemanticSegmentation(hf.DPTConfig(**common, **sizes)), hf.DPTImageProcessor(size=SQUARE)
    if kind == "beit":
        config = hf.BeitConfig(**common, out_indices=[1, 2, 3, 4], pool_scales=[1, 2])
        return hf.BeitForSemanticSegmentation(config), hf.BeitImageProcessor(
            size=SQUARE, do_center_crop=True, crop_size=SQUARE
        )
    if kind == "mask2former":
        inner = hf.SwinConfig(
            embed_dim=8,
            depths=[1] * 4,
            num_heads=[1] * 4,
            window_size=4,
            image_size=64,
            out_features=[f"stage{i}" for i in range(1, 5)],
        )
        sizes = {
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 16,
            "dim_feedforward": 16,
            "num_queries": 6,
        }
        config = hf.Mask2FormerConfig(
            backbone_config=inner, encoder_layers=1, decoder_layers=2, num_attention_heads=2, **sizes, **IDS
        )
        return hf.Mask2FormerForUniversalSegmentation(config), hf.Mask2FormerImageProcessor(
            size={"shortest_edge": 64, "longest_edge": 128}
        )
    config = hf.EomtConfig(**common, num_blocks=1, num_queries=6, num_upscale_blocks=2)
    edges = {"shortest_edge": 64, "longest_edge": 64 if kind == "eomt" else None}
    return hf.EomtForUniversalSegmentation(config), hf.EomtImageProcessor(
        size=edges, do_split_image=kind == "eomt_split", do_pad=kind == "eomt"
    )


def saved(folder: Path, kind: str) -> tuple[Any, Any]:
    torch.manual_seed(1)
    with without_losses(kind.removesuffix("_split")):
        network, processor = networks(kind)
    with torch.no_grad():
        for name, value in network.named_parameters():  # so that labels differ from pixel to pixel
            if value.ndim > 1 and any(part in name for part in ("classifier", "class_predictor", "decode_head")):
                value.mul_(20)
    network.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "segformer"
    saved(folder, "segformer")
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "mask2former",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("segformer", "upernet", "dpt", "beit", "eomt", "eomt_split")
        ),
    ],
)
def test_the_labels_are_those_of_its_own_processor(kind: str, tmp_path: Path) -> None:
    network, processor = saved(tmp_path / kind, kind)
    loaded = load(tmp_path / kind, ["a"])
    frames = (
        torch.nn.functional.interpolate(torch.rand(2, 3, 9, 12), (72, 96), mode="bilinear").mul(255).to(torch.uint8)
    )
    with torch.no_grad():
        said = loaded.model.eval().logits_at_stride(frames)
        given = processor(images=[one.permute(1, 2, 0).numpy() for one in frames], return_tensors="pt")
        raw = network(pixel_values=given["pixel_values"])
        if "patch_offsets" in given:
            raw.patch_offsets = given["patch_offsets"]
        target = (96, 96) if kind == "eomt" else (72, 96)  # it leaves padding in: 72 rows of 96
        wanted = torch.stack(processor.post_process_semantic_segmentation(raw, target_sizes=[target] * 2))[:, :72]
    agree = (resized(said.primary, (72, 96)).argmax(1) == wanted).float().mean()
    assert agree > (0.999 if kind in ("segformer", "upernet", "dpt", "beit") else 0.95)
    assert loaded.names == tuple(NAMES.values())
    assert loaded.model.has_auxiliary == (said.auxiliary is not None) == (kind in ("upernet", "dpt", "beit"))
    assert said.primary.softmax(1).amax(1).min() > 0.3
    if hasattr(raw, "logits"):
        torch.testing.assert_close(said.primary, raw.logits, atol=1e-4, rtol=1e-3)
        stages = loaded.model.logits_at_stride(frames, ["stage4"]).features
        assert stages["stage4"].shape[-2:] == (4, 4)


def test_at_their_own_size_frames_keep_their_shape(segformer: Path) -> None:
    loaded = load(segformer, ["a"], resize=False)
    with torch.no_grad():
        assert loaded.model.eval().logits_at_stride(torch.zeros(1, 3, 72, 160, dtype=torch.uint8)).primary.shape[
            -2:
        ] == (24, 40)
    assert loaded.size is None
    assert load(segformer, ["a"]).size == (64, 64)


def test_other_folders(segformer: Path, tmp_path: Path) -> None:
    def refused(sentence: str, **changes: Any) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(segformer, folder)
        for name, content in changes.items():
            place = (
                folder
                / {
                    "config": "config.json",
                    "index": "model.safetensors.index.json",
                    "weights": "model.safetensors",
                    "processor": "preprocessor_config.json",
                }[name]
            )
            place.unlink(missing_ok=True)
            if content is not None:
                place.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(WeightsError) as raised:
            load(folder, ["a"])
        assert sentence in str(raised.value)
        assert len(raised.value.lines) == 1

    config = json.loads((segformer / "config.json").read_text())
    whole = (segformer / "model.safetensors").read_bytes()
    refused("config.json can't be read", config=None)
    refused("config.json can't be read", config=b"{")
    refused("config.json can't be read: it is no JSON object", config=[])
    refused("preprocessor_config.json can't be read", processor=None)
    refused("holds no model.safetensors", weights=None)
    refused("can't be loaded by transformers", weights=whole[:1000])
    refused("is of kind 'bert', which isn't a semantic segmenter", config={"model_type": "bert"})
    refused("can't be loaded by transformers", config={"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}})
    refused("holds no weights, or of another shape, for", config=config | {"decoder_hidden_size": 24})
    refused("is quantised", config=config | {"quantization_config": {"quant_method": "bitsandbytes"}})
    refused("which isn't beside it", index={"weight_map": {"a": "../../elsewhere.safetensors"}})
    (tmp_path / "bin").mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(segformer / name, tmp_path / "bin")
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"only pytorch_model.bin, which may run code when it is read"):
        load(tmp_path / "bin", ["a"])
    with pytest.raises(WeightsError, match="isn't there; expected a folder"):
        load(tmp_path / "nowhere", ["a"])


def test_without_the_package(segformer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MissingPackageError,
        match=r"needs the package 'transformers', which isn't installed: pip install 'rdd-deploy\[teachers\]'",
    ):
        load(segformer, ["a"])
