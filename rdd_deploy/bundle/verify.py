"""``rdd-deploy bundle verify``: whether bundles are whole and what was exported."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.bundle.archive import as_folder
from rdd_deploy.errors import BundleError, Problems
from rdd_deploy.runtime.manifest import MANIFEST, Manifest, bundle_problems, manifest_of, read_file


@console.command
def main(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="folders, or .tar files that `bundle pack` wrote")
    ],
) -> None:
    """Check bundles: the manifest against its schema, every file against its hash, no files missing or too many, and
    that graphs say what the manifest says; where the package onnx is installed, also that they are valid ONNX with the
    input and output that the manifest promises.

    Exit code 0: all are fine; 2: something is wrong, and each problem is told in a line.

    Example: `rdd-deploy bundle verify runs/latest/export/*`
    """
    problems = Problems()
    beside = {path.parent for path in bundles if path.is_dir()}
    for bundle in bundles:
        if bundle.parent in beside and bundle.is_file() and bundle.suffix != ".tar":
            continue  # a plan, as a shell's export/* brings along
        with problems.collected(), as_folder(bundle) as folder:
            manifest = manifest_of(folder)
            found = bundle_problems(folder, manifest)
            graphs = [name for name in manifest.files if name.endswith(".onnx")] if not found.errors else []
            for name in graphs:
                with found.collected():
                    _check_graph(folder, name, manifest)
            if not found.errors:
                _tell(bundle, folder, manifest, graphs)
            problems.errors.extend(found.errors)
    problems.raise_all()


def _tell(bundle: Path, folder: Path, manifest: Manifest, graphs: list[str]) -> None:
    rows = [(name, _size(folder / name), sha256) for name, sha256 in manifest.files.items()]
    rows.append((MANIFEST, _size(folder / MANIFEST), ""))
    console.show(f"{bundle}: {manifest.name}", console.table(("file", "bytes", "SHA-256"), rows, left=(0, 2)))
    checked = [f"{len(manifest.files)} {'hash' if len(manifest.files) == 1 else 'hashes'} right", "manifest valid"]
    if graphs and find_spec("onnx") is None:
        checked.append("graphs not looked into, since onnx isn't installed")
    elif graphs:
        checked.append(f"{' and '.join(graphs)} valid")
    console.info(f"{bundle} is whole: {', '.join(checked)}")


def _size(path: Path) -> str:
    return f"{path.stat().st_size}"


def _check_graph(folder: Path, name: str, manifest: Manifest) -> None:
    """Whether a graph is ONNX, says of itself what the manifest says, and has the input and output that it promises.
    Raises BundleError.
    """
    from rdd_deploy.runtime.backends.base import INPUT, OUTPUT, check_model, check_tensor  # numpy

    path = folder / name
    try:
        check_model(path, manifest, read_file(path, manifest.files[name]))
    except ValueError as error:
        raise BundleError(f"{path} isn't ONNX: {error}; export the bundle again") from error
    if find_spec("onnx") is None:
        return
    import onnx

    from rdd_deploy.export.onnx.graph import load_graph

    graph = load_graph(path).graph
    constants = {one.name for one in graph.initializer}
    for what, tensors in (
        (INPUT, [one for one in graph.input if one.name not in constants]),
        (OUTPUT, list(graph.output)),
    ):
        if len(tensors) != 1:
            raise BundleError(
                f"{path} has {len(tensors)} tensors where it should have one, {what}; export the bundle again"
            )
        kind = tensors[0].type.tensor_type
        dtype = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        shape = [side.dim_value if side.HasField("dim_value") else side.dim_param for side in kind.shape.dim]
        check_tensor(manifest, what, tensors[0].name, dtype, shape)


if __name__ == "__main__":
    main()
