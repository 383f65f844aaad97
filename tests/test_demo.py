from pathlib import Path

import pytest
from toys import call, read_json

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path) -> None:
    done = call("demo", "--output", tmp_path / "runs", "train.epochs=1", "data.count=16", "evaluation.every=1", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in ("1/5", "2/5", "3/5", "4/5", "5/5", "its bundle"):
        assert step in done.stdout
    run = tmp_path / "runs" / "streets_demo"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"streets_teacher", "streets_demo_alone", "streets_demo", "latest"}
    assert read_json(run / "summary.json")["kind"] == "distill"
    assert (run / "export" / "onnxruntime-fp32" / "manifest.json").is_file()
    assert list((run / "pictures").glob("*.png"))
