import json
from pathlib import Path
from typing import Any

import pytest
from toy_bundle import toy_bundle

from rdd_deploy.errors import BundleError
from rdd_deploy.runtime import Manifest, read_manifest, write_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "toy")


def edit(bundle: Path, **fields: Any) -> None:
    path = bundle / "manifest.json"
    value = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: item for key, item in value.items() if item != "DROP"}))


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_manifest(bundle)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_what_is_written_is_read(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.input.height == 48
    assert manifest.metrics is not None
    assert manifest.metrics.labels_at == "frame"
    (tmp_path / "copy").mkdir()
    write_manifest(tmp_path / "copy", manifest)
    assert (tmp_path / "copy" / "manifest.json").read_bytes() == (bundle / "manifest.json").read_bytes()
    assert Manifest.model_validate_json((bundle / "manifest.json").read_text()) == manifest


def test_folder_missing(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    make = "python -m rdd_deploy.export --onnx"
    assert refusal(folder) == f"the bundle {folder} isn't there; expected a folder with manifest.json, as `{make}` writes it"


def test_file_instead_of_a_folder(bundle: Path) -> None:
    assert "is a file; expected a folder with manifest.json" in refusal(bundle / "model.onnx")


def test_manifest_missing(tmp_path: Path) -> None:
    assert "has no manifest.json, so it isn't a bundle; give a folder" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_not_json(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    assert "manifest.json isn't JSON (" in refusal(bundle)


def test_not_an_object(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("[1]")
    assert "holds a list, expected a JSON object" in refusal(bundle)


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (2, "has schema version 2, this rdd-deploy reads 1; update rdd-deploy"),
        (0, "has schema version 0, this rdd-deploy reads 1; export the bundle again"),
        ("1", "has schema version '1', this"),
        (True, "has schema version True, this"),
        ("DROP", "has schema version None, this"),
    ],
)
def test_wrong_version(bundle: Path, version: Any, sentence: str) -> None:
    edit(bundle, schema_version=version)
    assert sentence in refusal(bundle)


def test_every_problem_at_once(bundle: Path) -> None:
    edit(bundle, colour="BGR", precision="int7", input={"height": 0, "width": 64}, profile="DROP")
    message = refusal(bundle)
    assert "colour: unknown key" in message
    assert "precision: got 'int7', input should be 'fp32', 'fp16', 'bf16' or 'int8'" in message
    assert "input.height: got 0, input should be greater than or equal to 1" in message
    assert "profile: Field required" in message


@pytest.mark.parametrize(
    "name",
    ["../x.onnx", "/etc/passwd", "a/../../x", "..", "", "a\\b", "C:\\x", "c:x", "./model.onnx", "a//b", "a/", "x\0y", "manifest.json"],
)
def test_names_that_leave_the_folder(bundle: Path, name: str) -> None:
    edit(bundle, files={name: "0" * 64, "model.onnx": "0" * 64})
    assert "plain file name inside the bundle" in refusal(bundle) or name == "manifest.json"
    edit(bundle, model=name)
    refusal(bundle)


def test_files_in_a_subfolder_are_fine(bundle: Path) -> None:
    (bundle / "sub").mkdir()
    (bundle / "sub" / "weights.bin").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    edit(bundle, files={"sub/weights.bin": empty} | read_manifest(bundle).files)
    assert "sub/weights.bin" in read_manifest(bundle).files


def test_model_without_a_hash(bundle: Path) -> None:
    edit(bundle, model="other.onnx")
    assert "model: 'other.onnx' has no hash in files (model.onnx)" in refusal(bundle)


def test_palette_and_classes_disagree(bundle: Path) -> None:
    edit(bundle, classes=["a", "b"])
    assert "palette: got 3 colours, expected one for each of 2 classes" in refusal(bundle)
    edit(bundle, classes=["a"], palette=[[1, 2, 3]])
    assert "classes: got 1, expected 2 to 255" in refusal(bundle)


def test_file_missing(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    assert refusal(bundle) == f"{bundle} has no model.onnx, which its manifest.json names; copy the whole folder, or export it again"


def test_file_edited(bundle: Path) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "model.onnx isn't the file that was exported: its SHA-256 is " in refusal(bundle)
    assert read_manifest(bundle, verify=False).model == "model.onnx"


def test_closed_and_frozen(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    with pytest.raises(ValueError, match="frozen"):
        manifest.name = "x"  # type: ignore[misc]
