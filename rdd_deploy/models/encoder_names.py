"""The names of timm's encoders, read without importing timm: that imports torch, and a recipe is checked before
anything heavy loads.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rdd_deploy.errors import RecipeError


def check_encoder(name: str) -> None:
    """Raise RecipeError where timm has no such encoder; where timm isn't installed (the edge) nothing is checked."""
    models, former = encoder_names()
    if not models or name.split(".")[0] in models | former:
        return
    near = difflib.get_close_matches(name.split(".")[0], sorted(models), 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
    raise RecipeError(f"unknown encoder '{name}'; {hint}")


@cache
def encoder_names() -> tuple[frozenset[str], frozenset[str]]:
    """What timm's source files register: models (decorated functions), and their former names (tables of
    deprecations).
    """
    spec = find_spec("timm")
    models: set[str] = set()
    former: set[str] = set()
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in (Path(folder) / "models").glob("*.py"):
            text = path.read_text(encoding="utf-8", errors="replace")
            models.update(re.findall(r"^@register_model\s*\ndef (\w+)", text, re.MULTILINE))
            for table in re.findall(r"register_model_deprecations\(__name__, \{(.*?)\}\)", text, re.DOTALL):
                former.update(re.findall(r"['\"](\w+)['\"]:", table))
    return frozenset(models), frozenset(former)
