from pathlib import Path

import pytest
from toys import call, read_json

from rdd_deploy import demo
from rdd_deploy.errors import RddError
from rdd_deploy.recipe_files import find_recipe

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("program", "code"), [("import sys; sys.exit(4)", 4), ("import os; os.kill(os.getpid(), 15)", 143)]
)
def test_a_step_that_fails_ends_the_demo_with_its_code(program: str, code: int) -> None:
    with pytest.raises(
        RddError,
        match=rf"^the export ended with code {4 if code == 4 else -15}, for the reason given above; fix it and",
    ) as raised:
        demo._step("the export", "-c", program)
    assert raised.value.exit_code == code


def test_outside_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["demo"])
    assert find_recipe("streets_demo").is_file(), "the clone's own, from any folder"
    monkeypatch.setattr("rdd_deploy.recipe_files.SHIPPED", tmp_path)
    with pytest.raises(SystemExit) as raised:
        demo.main()
    assert raised.value.code == 2
    expected = "error: no recipe 'streets_demo'; expected a YAML file"
    assert capsys.readouterr().err.split() == expected.split()


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path) -> None:
    done = call(
        "demo", "--output", tmp_path / "runs", "train.epochs=1", "data.count=16", "evaluation.every=1", cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for step in ("1/5", "2/5", "3/5", "4/5", "5/5", "its bundle"):
        assert step in done.stdout
    run = tmp_path / "runs" / "streets_demo"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        "streets_teacher",
        "streets_demo_alone",
        "streets_demo",
        "latest",
    }
    assert read_json(run / "summary.json")["kind"] == "distill"
    assert (run / "export" / "onnxruntime-fp32" / "manifest.json").is_file()
    assert list((run / "pictures").glob("*.png"))
