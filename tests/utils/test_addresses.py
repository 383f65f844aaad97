"""No address shows its secrets, however it was typed; what is a file's name stays as it is."""

import string
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rdd_deploy.utils.addresses import HIDDEN, without_secrets, without_secrets_of

secrets = st.text(string.ascii_letters + string.digits + "/#?&=:%!~$;,_", min_size=8, max_size=20).map(
    lambda text: f"Q9{text}"
)
schemes = st.sampled_from(["rtsp", "RTSP", "http", "Https", "rtmp", "srt", "foo"])
slashes = st.sampled_from(["://", ":///", ":/", ":\\\\"])
paths = st.sampled_from(["", "/", "/stream1", "/a/b.m3u8", ":554/x"])


@given(schemes, slashes, secrets, secrets, paths)
def test_user_and_password_are_hidden_however_the_address_is_typed(
    scheme: str, slash: str, user: str, password: str, path: str
) -> None:
    assume(user not in HIDDEN)
    for address in (
        f"{scheme}{slash}{user}:{password}@10.0.0.7{path}",
        f"{user}:{password}@10.0.0.7{path}",
        f"//{user}:{password}@10.0.0.7{path}",
        f"http:{user}:{password}@10.0.0.7{path}",
    ):
        shown = without_secrets(address)
        assert user not in shown
        assert password not in shown
        assert shown.endswith(f"@10.0.0.7{path}")


@given(schemes, slashes, secrets, st.sampled_from(["?", "#", "?token=", "?a=1&password=", "#access_token="]))
def test_query_and_fragment_are_hidden(scheme: str, slash: str, secret: str, mark: str) -> None:
    for address in (
        f"{scheme}{slash}10.0.0.7/x{mark}{secret}",
        f"10.0.0.7/x{mark}{secret}",
        f"cam.local:80{mark}{secret}",
    ):
        assert secret not in without_secrets(address)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("rtsp://10.0.0.7:554/stream1", "rtsp://10.0.0.7:554/stream1"),
        ("rtsp://me:sec/ret#@h:1/x", "rtsp://***@h:1/x"),
        ("http://h/x?user=me&password=secret", "http://h/x?***"),
        ("rtsp:/user:pass@host", "rtsp:/***@host"),
        ("user:pass@host/x", "***@host/x"),
        ("rtsp://user:pass%40host/x", "rtsp://***@host/x"),
        ("rtsp://user%3Asecret%40h:554/x%40y", "rtsp://***@h:554/x%40y"),
        ("http://h/x%40y.jpg", "http://h/x%40y.jpg"),
        ("rtsp://10.0.0.7/user=admin&password=tlJw&channel=1", "rtsp://10.0.0.7/user=***&password=***&channel=1"),
        ("rtsp://[fe80::1]:554/x", "rtsp://[fe80::1]:554/x"),
        ("rtsp%3A%2F%2Fu%3Asecret%40h", "rtsp://***@h"),
        ("rtsp://h/me:secret/x", "rtsp://h/***/x"),
        ("admin:secret:10.0.0.7", "***:***"),
        ("rtsp://h/password/secret/x?a", "rtsp://h/password/***/x?***"),
        ("rtsp://h/psw=secret", "rtsp://h/psw=***"),
        ("data/code/a.mp4", "data/code/a.mp4"),
        ("cuda:x", "cuda:x"),
        ("drive.mp4", "drive.mp4"),
        ("what?.mp4", "what?.mp4"),
        ("c:/drive.mp4", "c:/drive.mp4"),
    ],
)
def test_shown_as(typed: str, shown: str) -> None:
    assert without_secrets(typed) == shown


def test_a_file_that_is_there_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("me@home.mp4", "a:b@c#1?x=2.mp4", "password=1.mp4"):
        Path(name).touch()
        assert without_secrets(name) == name


@given(st.text(max_size=60))
def test_any_text_can_be_asked_about(text: str) -> None:
    assert without_secrets(without_secrets(text)) == without_secrets(text)


def test_a_sentence_about_the_command_line_names_no_secret() -> None:
    words = ["--bundle", "rtsp://u:se'cret@h/x", "--camera=http://a:secret@h"]
    said = without_secrets_of(words, f"no bundle rtsp:/u:se'cret@h/x; {words[1]!r}; 'http://a:secret@h' is no number")
    assert said == "no bundle rtsp://***@h/x; \"rtsp://***@h/x\"; 'http://***@h' is no number"
    assert (
        without_secrets_of(["--rtsp://h/x#secret"], "no such option: --rtsp://h/x#secret")
        == "no such option: --rtsp://h/x#***"
    )
