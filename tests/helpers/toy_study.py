"""A study of the toy recipes, written and planned."""

from pathlib import Path
from typing import Any

import yaml

from rdd_deploy.study.config import load_study
from rdd_deploy.study.plan import Plan, make_plan


def write(path: Path, **changes: Any) -> Path:
    """A study of ``student.yaml`` beside it; a key of the value "none" is left out."""
    tree = {
        "recipe": "student.yaml",
        "seeds": [0, 1],
        "baseline": "KD",
        "variants": {"KD": {"set": ["distillation.method=kd"]}, "RDD": None},
    }
    kept = {key: value for key, value in (tree | changes).items() if value != "none"}
    path.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return path


def plan_of(path: Path, *overrides: str) -> Plan:
    study, source = load_study(path)
    return make_plan(study, source, Path("runs"), overrides, None)
