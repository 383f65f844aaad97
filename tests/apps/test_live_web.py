"""The program with a web view, as a person starts it."""

import json
import os
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from live_program import finish, frames, start

TOKEN = "a-token-of-good-length"


def get(url: str, token: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_it_serves_until_a_signal_and_records_meanwhile(tmp_path: Path, bundles: list[str], video: str) -> None:
    """A token from the environment stays out of what is printed; --serve needs no display."""
    seen, stats = tmp_path / "seen.avi", tmp_path / "s.json"
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"RDD_LIVE_TOKEN": TOKEN}
    arguments = [
        "--source",
        video,
        "--realtime",
        "--bundle",
        *bundles,
        "--serve",
        "0.0.0.0:0",
        "--record",
        str(seen),
        "--stats",
        str(stats),
    ]
    process = start(*arguments, env=environment)
    assert process.stdout is not None
    link = re.fullmatch(r"web view: http://[\w.-]+:(\d+)/\n", process.stdout.readline())
    assert link is not None
    url = f"http://127.0.0.1:{link[1]}"
    assert get(f"{url}/api/status")[0] == 401
    assert json.loads(get(f"{url}/api/status", TOKEN)[1])["source"] == "fields.avi"
    assert get(f"{url}/api/snapshot", TOKEN)[1].startswith(b"\x89PNG")
    assert b"Opacity" in get(f"{url}/", TOKEN)[1]
    with urllib.request.urlopen(
        urllib.request.Request(f"{url}/stream", headers={"Authorization": f"Bearer {TOKEN}"}), timeout=20
    ) as stream:
        assert b"image/jpeg" in stream.read(200)
        process.send_signal(signal.SIGINT)
        code, out, err = finish(process)
    assert (code, err) == (130, "")
    assert TOKEN not in out
    assert frames(seen) > 0
    assert json.loads(stats.read_text())["frames"] > 0
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--serve", "70000"], "error: got the port 70000, expected 0 to 65535; 0 takes any free one"),
        (
            ["--token", TOKEN],
            (
                "error: --token and --token-file say who may see the page, and there is none; give --serve, too, or"
                " leave them out"
            ),
        ),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    code, out, err = finish(start("--source", "streets", "--bundle", "nowhere", *arguments, cwd=tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert TOKEN not in err
