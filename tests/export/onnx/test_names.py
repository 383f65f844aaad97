"""Names of classes, tensors and folders in the tables of evaluation, gate and parity: as they were written."""

from typing import Any

import numpy as np
import pytest

from rdd_deploy import evaluation
from rdd_deploy.export import parity
from rdd_deploy.export.compare import Comparison, Reference
from rdd_deploy.export.quantization import accuracy_gate
from rdd_deploy.metrics import Confusion, protocol

NAMES = ("road [wet]", "lane [/b]", ":car:", "esc\x1b[31m")


def test_tables_show_names_as_they_were_written(capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    confusion = Confusion(NAMES)
    confusion.add(labels, labels)
    nothing: Any = None
    comparison = Comparison(confusion, 100.0, Reference("folder", "val", nothing, (2, 2), [], confusion))
    evaluation.show(evaluation.Evaluated("run[/b]", protocol("folder", "val", 1, (2, 2), 4), confusion.summary()))
    trial = accuracy_gate.Trial("tried [/b]", nothing, nothing, comparison)
    accuracy_gate.show_trials([trial], trial, 1.0)
    stages = [parity.Stage("stage[/b]", 1.0, 2.0, 3.0, 4.0, name, 5.0, "finding :car:") for name in NAMES]
    parity.show(parity.ParityReport("bundle[/b]", 1, stages, [":car:"], [parity.NodeError("tensor[/b]", 1.0)], ""))
    said = capsys.readouterr().out
    for name in ("road [wet]", "lane [/b]", ":car:", "esc\\x1b[31m"):
        assert said.count(name) >= 3
    for text in ("run[/b]", "│ tried [/b] │", "IoU per class: tried [/b]", "bundle[/b]", "tensor[/b]", "finding :car:"):
        assert text in said
    assert "\x1b" not in said
