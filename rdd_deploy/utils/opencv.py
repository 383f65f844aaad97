"""What differs between OpenCV 4 and 5."""

from __future__ import annotations

import cv2


def silence_opencv() -> None:
    """Let OpenCV print nothing of its own: its warnings say less than our sentences."""
    if hasattr(cv2.utils, "logging"):  # 5
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    else:
        cv2.setLogLevel(0)  # type: ignore[attr-defined]
