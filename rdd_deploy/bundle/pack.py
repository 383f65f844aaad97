"""``rdd-deploy bundle pack``: a bundle as one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rdd_deploy import console
from rdd_deploy.bundle.archive import archive_name, pack
from rdd_deploy.errors import DiskError
from rdd_deploy.runtime.manifest import read_manifest
from rdd_deploy.utils.arguments import output_file

_COMPRESSED = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".7z"}


@console.command
def main(
    bundle: Annotated[Path, typer.Argument(help="the bundle's folder")],
    output: Annotated[
        Path | None, typer.Option(callback=output_file, help="the file; default: RUN-PROFILE.tar in the current folder")
    ] = None,
) -> None:
    """Pack a bundle into one .tar, after checking it. The same bundle gives the same bytes, wherever and whenever it is
    packed.

    Example: `rdd-deploy bundle pack runs/latest/export/onnxruntime-int8`
    """
    target = output or Path(f"{archive_name(read_manifest(bundle, verify=False))}.tar")
    if target.suffix.lower() in _COMPRESSED:
        raise DiskError(
            f"--output is '{target}', but the archive isn't compressed; name it .tar, and compress it afterwards"
        )
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(bundle)):
        raise DiskError(
            f"'{target}' lies in the bundle itself, which holds no other files; choose another place with --output"
        )
    packed = pack(bundle, target)
    console.info(f"{target}: {packed.files} files, {packed.bytes / 1e6:.3f} MB, SHA-256 {packed.sha256}")


if __name__ == "__main__":
    main()
