"""Nothing phones home: what other packages would report to their makers is switched off before they are imported.

Whoever wants to send such reports says so in the package's own way, and that holds: ``ORT_DISABLE_TELEMETRY=0``,
``HF_HUB_DISABLE_TELEMETRY=0``, OpenVINO's ``opt_in_out --opt_in``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

_VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
_OPENVINO = "openvino_telemetry"
_late: list[str] = []
"""Packages that were imported before this one could tell them."""


def switch_off() -> None:
    """For this process and those that it starts."""
    for name in _VARIABLES:
        if not os.environ.get(name):
            os.environ[name] = "1"
            if name.startswith("ORT_") and "onnxruntime" in sys.modules:
                _late.append("onnxruntime")
    if not _openvino_is_asked_to():
        # It has no variable, and its refusal is a file in the home folder. As if the package weren't installed,
        # OpenVINO reports nothing.
        sys.modules.setdefault(_OPENVINO, None)  # type: ignore[arg-type]


def _openvino_is_asked_to() -> bool:
    try:
        return (Path.home() / "intel" / _OPENVINO).read_text(encoding="utf-8", errors="replace").strip() == "1"
    except (OSError, RuntimeError):  # no such file, or no home
        return False


def quiet_onnxruntime(onnxruntime: Any) -> str | None:
    """Switch its events off where it was imported before this package. Returns a sentence to warn with, since what it
    has begun it ends.
    """
    if "onnxruntime" not in _late:
        return None
    _late.remove("onnxruntime")
    onnxruntime.disable_telemetry_events()
    return (
        "onnxruntime was imported before rdd_deploy, so its reports to its maker may be on; "
        "import rdd_deploy first, or set ORT_DISABLE_TELEMETRY=1 (=0 if they are wanted)"
    )
