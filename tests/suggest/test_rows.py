import shlex
from pathlib import Path

import pytest

from rdd_deploy.errors import RecipeError
from rdd_deploy.models.encoder_names import check_encoder
from rdd_deploy.recipe import StudentRecipe, load_recipe
from rdd_deploy.recipe_files import find_recipe
from rdd_deploy.suggest.__main__ import milliseconds
from rdd_deploy.suggest.candidates import CANDIDATES
from rdd_deploy.suggest.rows import Row, by_latency, command, figures, unknown_within, worth_training


def row(encoder: str, ms: float) -> Row:
    return Row(encoder, "lraspp", 1.0, 1, ms, ms, ms)


ROWS = [
    row("tf_efficientnet_lite4", 9.0),  # 81.5
    row("repvit_m0_9", 5.0),  # 78.7
    row("mobileone_s2", 6.0),  # 77.5: slower and worse than the one before
    row("mobileone_s0", 2.0),  # 71.4
    row("starnet_s1", 1.0),  # not known
    Row("fastvit_t8", "lraspp", failure="no"),
]


def test_worth_training_is_the_front_within_the_latency_the_most_accurate_first() -> None:
    assert [one.encoder for one in worth_training(ROWS, None)] == [
        "tf_efficientnet_lite4",
        "repvit_m0_9",
        "mobileone_s0",
    ]
    assert [one.encoder for one in worth_training(ROWS, 5.0)] == ["repvit_m0_9", "mobileone_s0"]
    assert worth_training(ROWS, 1.5) == []
    assert unknown_within(ROWS, 1.5) == ["starnet_s1"]
    assert [one.encoder for one in by_latency(ROWS)][::5] == ["starnet_s1", "fastvit_t8"]


@pytest.mark.parametrize("size", [(240, 320), (360, 480), (96, 128)])
def test_the_printed_command_is_a_valid_recipe(size: tuple[int, int]) -> None:
    program, verb, recipe, *overrides = shlex.split(command(row("repvit_m0_9", 1.0), size))
    assert (program, verb) == ("rdd-deploy", "train")
    loaded = load_recipe(find_recipe(recipe), overrides)
    assert isinstance(loaded, StudentRecipe)
    assert (loaded.student.encoder, loaded.student.head, tuple(loaded.data.size)) == ("repvit_m0_9", "lraspp", size)
    assert find_recipe(Path(recipe).stem)
    assert recipe == "recipes/camvid_effnet_lite0.yaml", "the recipe to start from"
    assert [crop for _, crop in loaded.train.progressive][-1] == (min(size), min(size)) == tuple(loaded.augment.crop)


def test_measured_figures_say_what_they_started_from() -> None:
    measured = {encoder: known for encoder, known in CANDIDATES.items() if known.camvid_pct is not None}
    assert set(measured) == {
        "mobilenetv3_small_100",
        "tf_mobilenetv3_large_minimal_100",
        "mobilenetv4_conv_small",
        "tf_efficientnet_lite0",
    }
    assert all(known.camvid_start in ("scratch", "ImageNet") for known in measured.values())
    assert figures(Row("mobilenetv4_conv_small", "lraspp"))[-1] == "53.4 scratch"
    assert figures(Row("tf_efficientnet_lite0", "lraspp"))[-1] == "61.6 ImageNet"
    assert figures(Row("starnet_s1", "lraspp"))[-1] == ""


@pytest.mark.parametrize(
    ("text", "value"), [("5ms", 5.0), ("5", 5.0), ("0.005s", 5.0), (" 2.5 MS ", 2.5), ("800us", 0.8), (".5", 0.5)]
)
def test_latencies(text: str, value: float) -> None:
    assert milliseconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "0", "0ms", "-5ms", "5 min", "nan", "inf", "1e3", "5ms5", "٥ms" * 2, "9" * 400])
def test_what_is_no_latency(text: str) -> None:
    with pytest.raises(RecipeError, match="expected a time above zero"):
        milliseconds(text)


def test_all_candidates_are_known_to_timm() -> None:
    for encoder, known in CANDIDATES.items():
        check_encoder(encoder)
        assert known.top1_pct is None or 50 < known.top1_pct < 90
