"""A manifest says enough: our labels, bit for bit, from it with numpy, OpenCV and onnxruntime alone. The model's file
says the same.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_bundle import toy_bundle

from rdd_deploy.errors import BundleError
from rdd_deploy.runtime import Segmenter, read_manifest
from rdd_deploy.runtime.onnx_file import metadata
from rdd_deploy.utils.files import sha256

Array = Any
INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "nearest_exact": cv2.INTER_NEAREST_EXACT}


def by_the_manifest(folder: Path) -> Callable[[Array], Array]:
    """Frame -> labels, written from the manifest's words and what docs/export.md says that they mean; nothing of ours
    is used.
    """
    said = json.loads((folder / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / said["model"]), providers=["CPUExecutionProvider"])
    taken, given_, rule, back = (
        session.get_inputs()[0],
        session.get_outputs()[0],
        said["preprocessing"],
        said["postprocessing"],
    )
    height, width = said["input"]["height"], said["input"]["width"]
    assert (said["input"]["color"], said["input"]["layout"], said["input"]["dtype"]) == ("BGR", "NHWC", "uint8")
    assert (rule["fit"], rule["values"], back["output"]) == ("stretch", "unchanged", "class_ids")
    assert (rule["halve"], rule["halve_interpolation"]) == ("while_even_and_at_least_double", "area")

    def labels(frame: Array) -> Array:
        x = frame
        while not (x.shape[0] % 2 or x.shape[1] % 2) and x.shape[0] // 2 >= height and x.shape[1] // 2 >= width:
            x = x.astype(np.uint16)
            # Means, halves rounded up.
            x = ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2] + 2) // 4).astype(np.uint8)
        if x.shape[:2] != (height, width):
            shrinks = max(x.shape[0] / height, x.shape[1] / width) >= rule["shrink_from"]
            x = cv2.resize(
                x,
                (width, height),
                interpolation=INTERPOLATIONS[rule["shrink_interpolation" if shrinks else "interpolation"]],
            )
        (small,) = session.run([given_.name], {taken.name: np.ascontiguousarray(x[None])})
        return cv2.resize(small[0], frame.shape[1::-1], interpolation=INTERPOLATIONS[back["interpolation"]])

    return labels


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle(tmp_path_factory.mktemp("facts") / "toy", 48, 64)


SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300)) | st.sampled_from(
    [(96, 128), (97, 129), (192, 256), (384, 512), (384, 510), (480, 640), (48, 64), (47, 63), (1, 1), (1, 640), (1080, 1920), (120, 64), (119, 64)]
)  # fmt: skip


def frames(size: tuple[int, int], seed: int, kind: str) -> Array:
    """Noise, or something smooth where the brightest channel hangs on roundings; grey has three equal channels but for
    one level here and there.
    """
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (*size, 3), np.uint8)
    if kind == "noise":
        return noise
    if kind == "grey":
        grey = cv2.cvtColor(noise[..., 0], cv2.COLOR_GRAY2BGR)
        return np.minimum(grey, 254) + rng.integers(0, 2, (*size, 3), np.uint8)
    return np.ascontiguousarray(cv2.GaussianBlur(noise, (0, 0), 3)[:, ::-1])


def test_our_labels_bit_for_bit_from_the_manifest_alone(toy: Path) -> None:
    theirs, plain = by_the_manifest(toy), 0

    with Segmenter.load(toy) as segmenter:

        @settings(max_examples=40, deadline=None)
        @given(SIZES, st.integers(0, 9), st.sampled_from(["noise", "grey", "smooth"]))
        def agree(size: tuple[int, int], seed: int, kind: str) -> None:
            nonlocal plain
            frame = frames(size, seed, kind)
            ours = segmenter(frame)
            assert np.array_equal(ours, theirs(frame))
            resized = segmenter.infer(cv2.resize(frame, (64, 48))[None])
            plain += not np.array_equal(ours, segmenter.restore(resized, size))

        agree()
    assert plain > 5, "what any resize would do proves nothing"


def test_another_bundles_rule_is_followed(toy: Path, tmp_path: Path) -> None:
    """The manifest rules, not what this version would write."""
    frame = frames((151, 201), 0, "noise")
    with Segmenter.load(toy) as segmenter:
        usual = segmenter(frame)
    folder = edited(toy, tmp_path / "other", lambda said: said["preprocessing"].update(shrink_from=20))
    with Segmenter.load(folder) as segmenter:
        assert np.array_equal(segmenter(frame), by_the_manifest(folder)(frame))
        assert not np.array_equal(segmenter(frame), usual)


def edited(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    folder.mkdir()
    said = json.loads((bundle / "manifest.json").read_text())
    for name in said["files"]:
        (folder / name).write_bytes((bundle / name).read_bytes())
    change(said)
    (folder / "manifest.json").write_text(json.dumps(said))
    return folder


def older(said: dict[str, Any]) -> None:
    """As version 1 was written."""
    said["schema_version"] = 1
    del said["preprocessing"], said["postprocessing"]


def test_a_manifest_of_version_1_means_what_it_meant(toy: Path, tmp_path: Path) -> None:
    folder = edited(toy, tmp_path / "old", older)
    assert read_manifest(folder) == read_manifest(toy)
    frame = frames((480, 641), 1, "noise")
    with Segmenter.load(folder) as old, Segmenter.load(toy) as new:
        assert np.array_equal(old(frame), new(frame))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda said: said.update(schema_version=1), "preprocessing: unknown key in schema version 1; postprocessing: unknown key"),
        (lambda said: said.pop("preprocessing"), "manifest: preprocessing: Field required; export the bundle again"),
        (lambda said: said["preprocessing"].update(interpolation="cubic"), "preprocessing.interpolation: got 'cubic', input should be 'linear'"),
        (lambda said: said["preprocessing"].update(fit="letterbox"), "preprocessing.fit: got 'letterbox', input should be 'stretch'"),
        (lambda said: said["preprocessing"].update(shrink_from="2.5x"), "preprocessing.shrink_from: got '2.5x'"),
        (lambda said: said["preprocessing"].update(mean=0), "preprocessing.mean: unknown key"),
        (lambda said: said["postprocessing"].update(interpolation="linear"), "postprocessing.interpolation: got 'linear'"),
        (lambda said: said.update(postprocessing=None), "postprocessing: got None"),
    ],
)  # fmt: skip
def test_rules_that_nobody_knows_are_refused(
    toy: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    with pytest.raises(BundleError) as caught:
        read_manifest(edited(toy, tmp_path / "edited", change))
    assert sentence in str(caught.value)


def saying(folder: Path, backend: str = "onnxruntime", **words: str) -> Path:
    """A toy bundle whose model says of itself what its manifest says, but for some words."""
    toy_bundle(folder, manifest={"backend": backend, "profile": f"{backend}-fp32"})
    said = json.loads((folder / "manifest.json").read_text())
    keys = ("schema_version", "task", "classes", "palette", "input", "preprocessing", "postprocessing", "precision")
    model = onnx.load(folder / "model.onnx")
    told = {key: said[key] if isinstance(said[key], str) else json.dumps(said[key]) for key in keys} | words
    onnx.helper.set_model_props(model, {key: word for key, word in told.items() if word})
    onnx.save(model, folder / "model.onnx")
    said["files"]["model.onnx"] = sha256(folder / "model.onnx")
    (folder / "manifest.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_a_model_says_of_itself_is_compared(tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    content = (saying(tmp_path / "same", backend) / "model.onnx").read_bytes()
    assert metadata(content) == {one.key: one.value for one in onnx.load_from_string(content).metadata_props}
    Segmenter.load(tmp_path / "same").close()
    folder = saying(tmp_path / "classes", backend, classes='["green", "blue", "red"]')
    with pytest.raises(BundleError) as caught:
        Segmenter.load(folder)
    assert (
        str(caught.value)
        == f'{folder / "model.onnx"} says classes ["green", "blue", "red"] of itself, its manifest says ["blue",'
        ' "green", "red"]; copy the whole bundle again, or export it again'
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            {"input": '{"height": 48}'},
            'says input {"height": 48} of itself, its manifest says {"height": 48, "width": 64',
        ),
        ({"preprocessing": "none"}, 'says preprocessing none of itself, its manifest says {"fit": "stretch"'),
        ({"schema_version": "3"}, "says schema_version 3 of itself, its manifest says 2"),
        ({"palette": "[" * 5000}, f"says palette {'[' * 77}... of itself, its manifest says [[0, 0, 255]"),
        ({"precision": "int8"}, "computes in int8, its manifest says fp32"),
        ({"task": "detection"}, "says task detection of itself, its manifest says semantic-segmentation"),
    ],
)
def test_any_fact_that_differs_is_one_sentence(tmp_path: Path, words: dict[str, str], sentence: str) -> None:
    with pytest.raises(BundleError) as caught:
        Segmenter.load(saying(tmp_path / "toy", **words))
    assert sentence in str(caught.value)


def test_what_a_model_doesnt_say_isnt_compared(tmp_path: Path) -> None:
    """Older exports held classes and palette, and their manifests may have been edited since."""
    Segmenter.load(saying(tmp_path / "less", preprocessing="", palette="")).close()
    Segmenter.load(saying(tmp_path / "old", schema_version="", classes='["a", "b", "c"]')).close()
