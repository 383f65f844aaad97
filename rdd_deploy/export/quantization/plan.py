"""How a graph was quantised, as a file: reviewed, edited and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from rdd_deploy.errors import RecipeError
from rdd_deploy.export.compare import Comparison
from rdd_deploy.export.profile import OLD_SCHEMES, Bins, Images, Method, Percentile, Placement, Profile, Qad, SchemeName
from rdd_deploy.schema import Part, validated, with_new_names
from rdd_deploy.utils import files
from rdd_deploy.utils.machine import saturates_int8
from rdd_deploy.utils.yaml_file import load_yaml


class QadCheckpoint(Qad):
    """How the student was fine-tuned for its Q/DQ graph, and what came out."""

    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = Field(
        "", description="of the checkpoint; empty: fine-tune it again"
    )


class QuantizationPlan(Part):
    """How a graph was quantised: what the gate decided, to be reviewed, edited and replayed with ``--plan``."""

    renamed: ClassVar[dict[str, str]] = {**OLD_SCHEMES, "distil": "qad"}
    profile: str
    scheme: SchemeName
    method: Method
    percentile: Percentile
    bins: Bins
    images: Images
    placement: Placement
    bias_correction: bool = False
    float_layers: list[str] = Field([])
    qad: QadCheckpoint | None = None
    result: dict[str, float | int | str | None] = Field({}, description="what was measured; not read back")


def starting_plan(profile: Profile) -> QuantizationPlan:
    """The plan of a profile, before any fallback."""
    assert profile.calibration is not None
    calibration = profile.calibration.model_dump(include={"method", "percentile", "bins", "images"})
    placement = profile.placement
    if placement.weight_bits == "auto":
        narrow = profile.backend == "openvino" and saturates_int8()
        placement = placement.model_copy(update={"weight_bits": 7 if narrow else 8})
    return QuantizationPlan(profile=profile.name, scheme=profile.scheme_name, placement=placement, **calibration)


def replayed(profile: Profile, plan: QuantizationPlan) -> Profile:
    """The profile as it was when a plan was made."""
    assert profile.calibration is not None
    calibration = profile.calibration.model_copy(
        update={key: getattr(plan, key) for key in ("method", "percentile", "bins", "images")}
    )
    return profile.model_copy(update={"calibration": calibration, "placement": plan.placement})


def save_plan(path: Path, plan: QuantizationPlan, comparison: Comparison | None, passed: bool) -> None:
    """Write a plan as YAML with what was measured, if anything was."""
    result: dict[str, Any] = {"gate": "not measured"}
    if comparison is not None:
        result = {
            "miou_pct": round(comparison.miou_pct, 3),
            "drop_pct": round(comparison.drop_pct, 3),
            "label_agreement_pct": round(comparison.agreement_pct, 3),
            "gate": "passed" if passed else "failed",
        }
    head = (
        "# How this graph was quantised. Edit it and replay it: python -m rdd_deploy.export RUN --profile … --plan"
        " THIS_FILE\n"
    )
    tree = plan.model_copy(update={"result": result}).model_dump(mode="json")
    files.write_text(path, head + files.yaml_text(tree))


def load_plan(path: Path, profile: Profile) -> QuantizationPlan:
    """Read a plan; what it doesn't hold is as in the profile.

    A plan that an export wrote (it has a ``result``) may have the keys of an older version; in one written by hand they
    are errors.

    Raises:
        RecipeError: it is invalid, of another scheme or of another profile.
    """
    own = starting_plan(profile).model_dump(include={"percentile", "bins", "images", "placement"})
    tree = load_yaml(path)
    if tree.get("result"):
        tree = with_new_names(QuantizationPlan, tree)
    plan = validated(QuantizationPlan, own | tree, path)
    if plan.scheme != profile.scheme_name:
        raise RecipeError(
            f"{path} is a plan for the scheme {plan.scheme}, profile {profile.name} has the scheme"
            f" {profile.scheme_name}; take its own plan"
        )
    if plan.profile != profile.name:
        raise RecipeError(
            f"{path} is a plan of the profile {plan.profile}, not of {profile.name}; take its own plan, or edit its"
            " first line"
        )
    return plan
