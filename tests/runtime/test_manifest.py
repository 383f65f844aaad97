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
    assert (
        refusal(folder)
        == f"the bundle {folder} isn't there; expected a folder with manifest.json, as `{make}` writes it"
    )


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
        (3, "has schema version 3, this rdd-deploy reads 1 to 2; update rdd-deploy"),
        (0, "has schema version 0, this rdd-deploy reads 1 to 2; export the bundle again"),
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
    [
        "../x.onnx",
        "/etc/passwd",
        "a/../../x",
        "..",
        "",
        "a\\b",
        "C:\\x",
        "c:x",
        "./model.onnx",
        "a//b",
        "a/",
        "x\0y",
        "manifest.json",
    ],
)
def test_names_that_leave_the_folder(bundle: Path, name: str) -> None:
    edit(bundle, files={name: "0" * 64, "model.onnx": "0" * 64})
    assert "plain file name inside the bundle" in refusal(bundle) or name == "manifest.json"
    edit(bundle, model=name)
    refusal(bundle)


def test_files_in_a_subfolder_are_fine(bundle: Path) -> None:
    files = read_manifest(bundle).files
    (bundle / "sub").mkdir()
    (bundle / "sub" / "weights.bin").write_bytes(b"")
    assert "sub/weights.bin isn't named by the bundle's manifest.json; remove it, or export" in refusal(bundle)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    edit(bundle, files={"sub/weights.bin": empty} | files)
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
    assert (
        refusal(bundle)
        == f"{bundle} has no model.onnx, which its manifest.json names; copy the whole folder, or export it again"
    )


def test_file_edited(bundle: Path) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "model.onnx isn't the file that was exported: its SHA-256 is " in refusal(bundle)
    assert read_manifest(bundle, verify=False).model == "model.onnx"


@pytest.mark.parametrize("name", ["model.bin", "weights", "model.onnx.data", "Model.onnx"])
def test_files_that_the_manifest_doesnt_name_are_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"anything")
    assert f"{name} isn't named by the bundle's manifest.json" in refusal(bundle)


def test_what_systems_leave_behind_is_no_part_of_a_bundle(bundle: Path) -> None:
    for name in (".DS_Store", "._model.onnx", "Thumbs.db", ".nfs0001"):
        (bundle / name).write_bytes(b"")
    (bundle / ".Trash").mkdir()
    (bundle / ".Trash" / "old.onnx").write_bytes(b"")
    assert read_manifest(bundle).name == "toy"


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_links_that_lead_out_are_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to("../elsewhere")
    assert f"{name} is a link that leads out of the bundle; copy the file itself to its place" in refusal(bundle)


def test_folders_that_are_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bundle / "sub").symlink_to("../elsewhere")
    assert "sub isn't named by the bundle's manifest.json" in refusal(bundle)


def test_links_to_a_bundle_and_inside_it_are_fine(bundle: Path, tmp_path: Path) -> None:
    edit(bundle, files={"a.onnx": (digest := read_manifest(bundle).files["model.onnx"]), "model.onnx": digest})
    (bundle / "a.onnx").symlink_to("model.onnx")
    (tmp_path / "latest").symlink_to(bundle)
    assert read_manifest(tmp_path / "latest").name == "toy"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "101", "-1"])
@pytest.mark.parametrize("key", ["miou_pct", "float_miou_pct", "drop_pct", "iou", "provenance"])
def test_numbers_that_nothing_measures(bundle: Path, key: str, number: str) -> None:
    value = json.loads((bundle / "manifest.json").read_text())
    place = {"iou": value["metrics"]["iou_pct"], "provenance": value["provenance"]}.get(key, value["metrics"])
    place["blue" if key == "iou" else key] = "HERE"
    (bundle / "manifest.json").write_text(json.dumps(value).replace('"HERE"', number))
    if number in ("101", "-1") and key in ("drop_pct", "provenance"):
        read_manifest(bundle)
    else:
        assert "manifest.json is" in refusal(bundle)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        (["a", "a", "b"], "classes: got 'a' more than once, expected names that differ"),
        (["a", " ", "b"], "classes: got an empty name"),
        (["a", "\ud800", "b"], "surrogates not allowed"),
        (["a", 3, "b"], "classes.1: got 3"),
    ],
)
def test_class_names_are_checked(bundle: Path, classes: list[Any], sentence: str) -> None:
    edit(bundle, classes=classes)
    assert sentence in refusal(bundle)


@pytest.mark.parametrize("colour", [[0, 0], [0, 0, 256], [0, 0, -1], [0, 0, 0.5], "red", None])
def test_colours_are_three_bytes(bundle: Path, colour: Any) -> None:
    edit(bundle, palette=[colour, [1, 2, 3], [4, 5, 6]])
    assert "palette.0" in refusal(bundle)


def test_closed_and_frozen(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    with pytest.raises(ValueError, match="frozen"):
        manifest.name = "x"  # type: ignore[misc]
