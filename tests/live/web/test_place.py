"""Where the view is served and with which token; every mistake is one sentence, and comes before bundles are loaded."""

import re
import socket
import sys
from pathlib import Path

import pytest

from rdd_deploy.errors import RddError
from rdd_deploy.live.app import live
from rdd_deploy.live.options import LiveOptions
from rdd_deploy.live.web.place import TOKEN_VARIABLE, open_place

TOKEN = "a-long-enough-token.42"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("serve", "sentence"),
    [
        ("", "got --serve , expected [HOST:]PORT like 8000, 0.0.0.0:8000 or [::1]:8000"),
        (":8000", "got --serve :8000, expected [HOST:]PORT like 8000, 0.0.0.0:8000 or [::1]:8000"),
        ("::1:8000", "got --serve ::1:8000, expected [HOST:]PORT like 8000, 0.0.0.0:8000 or [::1]:8000"),
        ("localhost", "got --serve localhost, expected [HOST:]PORT like 8000, 0.0.0.0:8000 or [::1]:8000"),
        ("-1", "got --serve -1, expected [HOST:]PORT like 8000, 0.0.0.0:8000 or [::1]:8000"),
        ("65536", "got the port 65536, expected 0 to 65535; 0 takes any free one"),
        ("9" * 5000, f"got the port {'9' * 20}, expected 0 to 65535; 0 takes any free one"),
        ("no.such.host.invalid:80", r"can't serve on 'no.such.host.invalid': "),
        ("a..b:80", r"can't serve on 'a..b': "),
        ("192.0.2.77:0", "192.0.2.77 is no address of this machine; give one for --serve, or 0.0.0.0 for all of them"),
    ],
)
def test_a_wrong_place(serve: str, sentence: str) -> None:
    with pytest.raises(RddError, match="^" + re.escape(sentence)):
        live(LiveOptions(bundles=(Path("nowhere"),), source="streets", serve=serve))  # the missing bundle isn't reached


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sentence = f"^port {port} of 127.0.0.1 is taken; choose another one for --serve, or 0 for any free one$"
        with pytest.raises(RddError, match=sentence):
            live(LiveOptions(bundles=(Path("nowhere"),), source="streets", serve=str(port)))


def test_the_port_is_free_again_after_another_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    for _ in range(2):
        with pytest.raises(RddError, match="nowhere"):
            live(LiveOptions(bundles=(Path("nowhere"),), source="streets", serve=str(port)))


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("short", "--token has 5 characters, expected at least 16; `python -c"),
        ("x" * 257, "--token has 257 characters, expected at most 256"),
        (
            "secret with spaces &c",
            "--token has characters that a link doesn't hold; expected letters, digits and . _ ~ - only",
        ),
        ("ünïcödé-is-no-good-here", "--token has characters that a link doesn't hold"),
    ],
)
def test_a_wrong_token_is_refused_and_not_repeated(
    token: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in ("", "0.0.0.0:"):
        with pytest.raises(RddError, match="^" + re.escape(sentence)) as told:
            open_place(f"{host}0", token, None)
        assert token not in str(told.value)
    (tmp_path / "token").write_text(token + "\n", encoding="utf-8")
    with pytest.raises(
        RddError, match="^" + re.escape(sentence.replace("--token", f"the token in {tmp_path / 'token'}"))
    ):
        open_place("0", None, tmp_path / "token")
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(RddError, match="^" + re.escape(sentence.replace("--token", f"the token in {TOKEN_VARIABLE}"))):
        open_place("0", None, None)


def test_a_token_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RddError, match=f"^can't read --token-file {re.escape(str(path))}: "):
            open_place("0", None, path)
    with pytest.raises(RddError, match=r"^got --token and --token-file; give one of them$"):
        open_place("0", TOKEN, tmp_path)


@pytest.mark.parametrize(
    ("serve", "loopback", "link"),
    [
        ("0", True, r"http://127\.0\.0\.1:\d+/"),
        ("127.0.0.2:0", True, r"http://127\.0\.0\.2:\d+/"),
        ("localhost:0", True, r"http://localhost:\d+/"),
        ("[::1]:0", True, r"http://\[::1\]:\d+/"),
        ("[::ffff:127.0.0.1]:0", True, r"http://\[::ffff:127\.0\.0\.1\]:\d+/"),
        ("0.0.0.0:0", False, r"http://[\w.-]+:\d+/\?token=[\w-]{32}"),
        ("[::]:0", False, r"http://[\w.-]+:\d+/\?token=[\w-]{32}"),
    ],
)
def test_only_loopback_goes_without_a_token(serve: str, loopback: bool, link: str) -> None:
    if serve.startswith("[") and not _has_ipv6():
        pytest.skip("no IPv6 here")
    place = open_place(serve, None, None)
    try:
        assert place.loopback is loopback
        assert re.fullmatch(link, place.link)
        assert bool(place.token) is not loopback
        assert repr(place).count(place.token or "\0") == 0
    finally:
        place.listener.close()


def test_made_tokens_differ_and_given_ones_stay_out_of_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = set()
    for _ in range(3):
        place = open_place("0.0.0.0:0", None, None)
        place.listener.close()
        made.add(place.token)
    assert len(made) == 3
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    for token, file in ((TOKEN, None), (None, tmp_path / "token"), (None, None)):
        place = open_place("127.0.0.1:0", token, file)
        assert place.token == TOKEN, "on loopback, too"
        assert TOKEN not in place.link
        place.listener.close()


def test_without_aiohttp_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "rdd_deploy.live.web.server", raising=False)
    sentence = "live --serve needs the package 'aiohttp', which isn't installed: pip install 'rdd-deploy[web]'"
    with pytest.raises(RddError, match="^" + re.escape(sentence)):
        live(LiveOptions(bundles=(Path("nowhere"),), source="streets", serve="0"))


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
