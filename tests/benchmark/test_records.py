import json
from pathlib import Path

import made_up
import pytest
from pydantic import ValidationError

from rdd_deploy.benchmark.compare import check_comparable, differences, merged
from rdd_deploy.benchmark.options import LatencyMetric
from rdd_deploy.benchmark.records import Row, read_benchmark
from rdd_deploy.benchmark.report.write import write_report
from rdd_deploy.benchmark.session import judged
from rdd_deploy.errors import BundleError


def test_json_round_trip(tmp_path: Path) -> None:
    full = judged(
        made_up.benchmark(
            made_up.row("float", 30, 70), made_up.row("int8", 10, 69, drop=1), made_up.failed("x", "why")
        ),
        15,
        2,
    )
    write_report(tmp_path, full, [], [(0, 0, 255), (0, 255, 0), (255, 0, 0)])
    assert read_benchmark(tmp_path / "benchmark.json") == full
    raw = json.loads((tmp_path / "benchmark.json").read_text())
    assert raw["schema_version"] == 1
    assert raw["decisions"][0]["chosen"] == "int8"
    assert set(raw["rows"][0]["latency"]["model"]) == {"p50_ms", "p95_ms", "p99_ms", "mean_ms"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "isn't JSON"), ("[]", "schema version None, expected 1"), ('{"schema_version": 2}', "schema version 2, expected 1"),
        ('{"schema_version": 1}', "isn't a benchmark (created_utc: Field required)"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BundleError) as error:
        read_benchmark(tmp_path / "b.json")
    assert words in str(error.value)
    assert str(error.value).endswith("give a benchmark.json that `python -m rdd_deploy.benchmark` wrote")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"can't read .*nothing\.json: No such file"):
        read_benchmark(tmp_path / "nothing.json")


def test_records_are_closed() -> None:
    with pytest.raises(ValidationError):
        Row.model_validate({**made_up.row("a", 1, 50).model_dump(), "latency_s": 1})


def test_rows_of_another_device_stand_in_another_table() -> None:
    full = made_up.benchmark(
        made_up.failed("broken", "why"), made_up.row("cpu-float", 30, 70), made_up.row("gpu-float", 3, 70, device="cuda:0"),
        made_up.row("cpu-int8", 10, 69, drop=1),
    )  # fmt: skip
    assert {device: [row.name for row in rows] for device, rows in full.tables().items()} == {
        "cpu": ["cpu-float", "cpu-int8", "broken"], "cuda:0": ["gpu-float"],
    }  # fmt: skip
    decided = judged(full, 15, None)
    assert decided.dominated == []  # the GPU's row beats nobody on the CPU
    assert [(decision.device, decision.chosen) for decision in decided.decisions] == [
        ("cpu", "cpu-int8"),
        ("cuda:0", "gpu-float"),
    ]


def test_earlier_rows_join_where_everything_is_the_same() -> None:
    new, old = (
        made_up.benchmark(made_up.row("float", 30, 70)),
        made_up.benchmark(made_up.row("float", 33, 70), made_up.row("int8", 10, 69)),
    )
    both = merged(new, [(Path("old.json"), old), (Path("older.json"), old)])
    assert [row.name for row in both.rows] == [
        "float", "float (2026-01-02 03:04)", "int8", "float (2026-01-02 03:04, 2)", "int8 (2026-01-02 03:04)",
    ]  # fmt: skip
    assert [row.source for row in both.rows] == [None, "old.json", "old.json", "older.json", "older.json"]
    assert both.warnings == []


@pytest.mark.parametrize(
    ("machine", "protocol", "difference"),
    [
        ({"cpu_model": "Other CPU"}, {}, "cpu_model: Other CPU against Toy CPU"),
        ({"governor": None}, {}, "governor: None against performance"),
        ({"gpu": "H100"}, {}, "gpu: H100 against None"),
        ({}, {"threads": 1}, "threads: 1 against 2"),
        ({}, {"images_sha256": "cd" * 32}, "images_sha256: cdcdcdcdcdcd… against abababababab…"),
        ({}, {"rounds": 9}, "rounds: 9 against 5"),
        ({}, {"split": "test"}, "split: test against val"),
    ],
)
def test_rows_measured_otherwise_are_refused(machine: dict, protocol: dict, difference: str) -> None:
    new = made_up.benchmark(made_up.row("float", 30, 70))
    other = made_up.benchmark(
        made_up.row("float", 3, 99), machine=made_up.machine(**machine), protocol=made_up.protocol(**protocol)
    )  # fmt: skip
    assert differences((new.machine, new.protocol), (other.machine, other.protocol)) == [difference]
    with pytest.raises(BundleError) as refused:
        check_comparable(new.machine, new.protocol, new.classes, [(Path("old.json"), other)])
    assert refused.value.exit_code == 2
    assert refused.value.lines == [
        "--compare takes files of this machine and protocol only; what differs (there against here):",
        f"old.json: {difference}",
        "measure those bundles here, in one call with these, or leave --compare out",
    ]


def test_all_that_differs_in_all_files_is_listed() -> None:
    new = made_up.benchmark(made_up.row("float", 30, 70))
    far = made_up.benchmark(
        made_up.row("a", 3, 70), machine=made_up.machine(cpu_model="B", cores=4), protocol=made_up.protocol(rounds=1)
    )
    others = new.model_copy(update={"classes": ["one", "two"]})
    files = [(Path("far.json"), far), (Path("same.json"), new), (Path("others.json"), others)]
    with pytest.raises(BundleError) as refused:
        check_comparable(new.machine, new.protocol, new.classes, files)
    assert refused.value.lines[1:-1] == [
        "far.json: cpu_model: B against Toy CPU", "far.json: cores: 4 against 2", "far.json: rounds: 1 against 5", "others.json: classes: others",
    ]  # fmt: skip


def test_references_and_warnings_of_earlier_rows_come_along() -> None:
    """The float bundle that a joined row was compared with is the earlier one, whatever it is called now."""
    old = made_up.benchmark(
        made_up.row("float", 33, 70), made_up.row("int8", 10, 69, drop=1), warnings=["the machine was unsteady"]
    )
    both = merged(
        made_up.benchmark(made_up.row("float", 30, 20), made_up.row("int8", 9, 19, drop=1)), [(Path("old.json"), old)]
    )
    references = {row.name: row.change and row.change.reference for row in both.rows}
    earlier = "float (2026-01-02 03:04)"
    assert references == {"float": None, "int8": "float", earlier: None, "int8 (2026-01-02 03:04)": earlier}
    assert both.warnings == ["old.json: the machine was unsteady"]


def test_files_with_rows_set_apart_still_load(tmp_path: Path) -> None:
    """As they were written before such rows were refused."""
    old = made_up.benchmark(made_up.row("near", 30, 70))
    content = old.model_dump(mode="json")
    apart = {
        "source": "x.json",
        "differences": ["cores: 4 against 2"],
        "machine": content["machine"],
        "protocol": content["protocol"],
    }
    content["apart"] = [apart | {"rows": content["rows"]}]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert read_benchmark(tmp_path / "old.json") == old


def test_latency_metrics_are_written_by_their_names() -> None:
    content = judged(made_up.benchmark(made_up.row("float", 30, 70), judge="end-to-end-p95"), 50, None).model_dump(
        mode="json"
    )
    assert (content["judge"], content["decisions"][0]["judge"]) == ("end-to-end-p95", "end-to-end-p95")
    assert "within 50 ms (end-to-end-p95)" in content["decisions"][0]["sentence"]
    assert [str(one) for one in LatencyMetric] == ["model-p50", "model-p95", "end-to-end-p50", "end-to-end-p95"]


def test_other_library_versions_or_load_join() -> None:
    new = made_up.benchmark(made_up.row("float", 30, 70))
    other = made_up.machine(versions={"onnxruntime": "9"}, load_average_before=0.0, python="3.12")
    assert differences((new.machine, new.protocol), (other, made_up.protocol(device_asked="cpu"))) == []
