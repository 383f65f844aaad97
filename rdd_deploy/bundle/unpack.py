"""``rdd-deploy bundle unpack``: a folder from a bundle's .tar."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.bundle.archive import opened
from rdd_deploy.errors import BundleError, DiskError
from rdd_deploy.export.bundle import check_place, new_bundle

_CHOOSE = "as the second argument"


@console.command
def main(
    archive: Annotated[Path, typer.Argument(help="a .tar that `rdd-deploy bundle pack` wrote")],
    folder: Annotated[
        Path | None,
        typer.Argument(help="the bundle's new folder; default: in the current one, named as the archive without .tar"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace the bundle that is there")] = False,
) -> None:
    """Unpack a bundle's .tar. The folder is there as a whole, with every hash checked, or not at all.

    An archive with anything else in it than the files that its manifest names is refused: links, devices, names that
    lead out of the folder.

    Example: `rdd-deploy bundle unpack camvid_mbv3-onnxruntime-int8.tar`
    """
    if folder is None:
        folder = Path(archive.name.removesuffix(".tar"))
        if folder.name == archive.name and not archive.is_dir():
            raise BundleError(
                f"got {archive}, whose name doesn't end with .tar; name the folder to make as the second argument"
            )
    target = Path(os.path.abspath(folder))
    if not target.name or target == Path.cwd():
        raise DiskError(f"can't replace {folder} by a bundle: name a new folder as the second argument")
    with opened(archive) as checked:
        check_place(target, _CHOOSE)
        if not force and target.is_dir() and any(target.iterdir()):
            raise DiskError(
                f"there is a bundle in {folder} already; replace it with --force, or name another folder as the second"
                " argument"
            )
        with new_bundle(target, _CHOOSE) as part, console.progress("unpack", checked.size, unit="bytes") as bar:
            checked.unpack(part, bar.advance)
        console.info(
            f"{folder}: {checked.manifest.name}, {len(checked.files) + 1} files, {checked.size / 1e6:.3f} MB, all"
            " hashes right"
        )


if __name__ == "__main__":
    main()
