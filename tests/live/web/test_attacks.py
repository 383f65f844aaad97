"""What strangers send: each is refused or dropped, and the pipeline goes on."""

import re
import socket
import time
from pathlib import Path

import pytest
from web_app import Running, Viewer, running

from rdd_deploy.live.web import server

POST = b"POST /api/view HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
PATHS = [
    "/",
    "/app.js",
    "/style.css",
    "/icon.svg",
    "/favicon.ico",
    "/stream",
    "/api/status",
    "/api/bundles",
    "/api/snapshot",
    "/none",
    "/..%2fapp.js",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"Authorization": "Bearer wrong-wrong-wrong-wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic dG9rZW46dG9rZW4="},
        {"Cookie": "rdd_live=1; rdd_live_{port}=" + "0" * 64},
        {"Cookie": '"; ;;=\xff rdd_live_{port}="'},
    ],
)
def test_without_the_token_there_is_nothing(guarded: Running, path: str, sent: dict[str, str]) -> None:
    sent = {name: value.replace("{port}", str(guarded.port)) for name, value in sent.items()}
    status, told, headers = guarded.ask(path, **sent)
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "Set-Cookie" not in headers
    content = told if isinstance(told, bytes) else str(told["error"]).encode()
    assert b"token is missing or wrong" in content
    assert guarded.place.token.encode() not in content
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")


def test_a_browser_that_asks_for_an_icon_by_its_old_name_gets_it(guarded: Running) -> None:
    sent = {"Authorization": f"Bearer {guarded.place.token}"}
    status, icon, headers = guarded.ask("/favicon.ico", **sent)
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "image/svg+xml")
    assert icon == guarded.ask("/icon.svg", **sent)[1]


def test_a_wrong_token_in_the_link_or_on_another_path(guarded: Running) -> None:
    token = guarded.place.token
    for path in (
        "/?token=",
        "/?token=" + token[:-1],
        f"/?token={token}x",
        "/?token=%00%ff%f0",
        f"/api/status?token={token}",
        f"/stream?token={token}",
    ):
        assert guarded.ask(path)[0] == 401, path
    for _, body in (("split", {"split": True}), ("none", {})):
        assert guarded.ask("/api/view", body)[0] == 401
    assert not guarded.ask("/api/status", Authorization=f"Bearer {token}")[1]["split"]


def test_the_link_gives_a_cookie_and_the_cookie_lets_in(guarded: Running) -> None:
    token = guarded.place.token
    status, page, headers = guarded.ask(guarded.link.partition(str(guarded.port))[2])
    assert status == 200
    assert b'http-equiv="refresh" content="0; url=/"' in page
    assert token.encode() not in page
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"httponly", "samesite=strict", "path=/"} <= {one.lower() for one in attributes}
    assert token not in cookie
    assert guarded.ask("/", Cookie=cookie)[0] == 200
    assert guarded.ask("/api/status", Cookie=f"other=1; {cookie}")[0] == 200
    assert guarded.ask("/api/status", Authorization=f"bearer {token}")[0] == 200
    assert guarded.ask("/api/status", Cookie=cookie[:-1] + ("0" if cookie[-1] != "0" else "1"))[0] == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.5", "[fe80::1]", "0.0.0.0"]
)
def test_other_names_are_refused(served: Running, host: str) -> None:
    """DNS rebinding: another site's name that was made to point at this machine."""
    for name in (host, f"{host}:{served.port}"):
        status, told, _ = served.ask("/api/status", Host=name)
        assert (status, told["error"]) == (
            421,
            "this name isn't one of this machine; open the view by its address or its own name",
        )


def test_our_own_names_are_taken_with_the_port_of_a_tunnel(served: Running, guarded: Running) -> None:
    for host in ("localhost", "LOCALHOST.:9000", "127.0.0.1:1", "127.9.9.9", "[::1]:80"):
        assert served.ask("/api/status", Host=host)[0] == 200, host
    for host in ("10.1.2.3:80", f"{socket.gethostname()}.somewhere.example"):
        assert guarded.ask("/api/status", Host=host, Authorization=f"Bearer {guarded.place.token}")[0] == 200, host
    assert guarded.ask("/api/status", Host="evil.example", Authorization=f"Bearer {guarded.place.token}")[0] == 421


@pytest.mark.parametrize(
    "lines", [b"", b"Host:\r\n", b"Host: a b\r\n", b"Host: localhost\r\nHost: localhost\r\n", b"Host: u@localhost\r\n"]
)
def test_a_host_header_that_is_none(served: Running, lines: bytes) -> None:
    answer = served.raw(b"GET /api/status HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n")
    assert answer[9:12] == b"400", answer[:60]


@pytest.mark.parametrize(
    "sent",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": ""},
    ],
)
def test_another_site_changes_nothing(served: Running, sent: dict[str, str]) -> None:
    before = served.state()
    status, told, headers = served.ask(
        "/api/view", {"opacity": 0.123, "split": True}, Host=f"localhost:{served.port}", **sent
    )
    assert status in (403, 415), told
    after = served.state()
    assert (after["opacity"], after["split"]) == (before["opacity"], before["split"])
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_another_site_embeds_nothing_but_may_lead_here(served: Running) -> None:
    cross = {"Sec-Fetch-Site": "cross-site"}
    for path in PATHS[:8]:
        assert served.ask(path, **cross, **{"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"})[0] == 403
        assert served.ask(path, **cross, **{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"})[0] == 403
    status, _, headers = served.ask("/", **cross, **{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    own = f"127.0.0.1:{served.port}"
    assert served.ask("/api/view", {}, Origin=f"http://{own}", **{"Sec-Fetch-Site": "same-origin"})[0] == 200


def test_the_page_loads_nothing_from_elsewhere_and_has_no_inline_script(served: Running) -> None:
    for path in ("/", "/app.js", "/style.css"):
        text = served.ask(path)[1].decode()
        assert not re.search(r"(?:https?:)?//[a-z]", text.replace("http://www.w3.org", "")), path
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|<style", text) or path != "/"


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "RUBBISH"])
def test_other_methods(served: Running, method: str) -> None:
    for path in ("/", "/stream", "/api/view", "/api/status"):
        assert served.ask(path, method=method)[0] == (400 if method == "RUBBISH" else 405), path
    assert served.ask("/api/status", {"split": True})[0] == 405
    assert served.ask("/api/view")[0] == 405


@pytest.mark.parametrize(
    "path", ["/none", "/api", "/../../etc/passwd", "/%2e%2e/app.py", "/page/../server.py", "/app.js/", "//app.js"]
)
def test_other_paths(served: Running, path: str) -> None:
    status, told, _ = served.ask(path)
    assert (status, told) == (404, {"error": "there is nothing here; docs/web.md lists what there is"})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "invalid JSON"),
        (b"{", "invalid JSON"),
        (b"[]", "input should be an object"),
        (b"null", "input should be an object"),
        (b"\xff\xfe{", "invalid JSON"),
        (b"[" * 4000, "invalid JSON"),
        (b'{"bundle": 0}', "bundle: input should be greater than or equal to 1"),
        (b'{"bundle": 3}', "there are 2 bundles, no number 3"),
        (b'{"bundle": 1e400}', "bundle: input should be a valid integer"),
        (b'{"bundle": true}', "bundle: input should be a valid integer"),
        (b'{"bundle": "1"}', "bundle: input should be a valid integer"),
        (b'{"bundle": ' + b"9" * 3000 + b"}", "bundle: "),
        (b'{"opacity": NaN}', "opacity: "),
        (b'{"opacity": 1.01}', "opacity: input should be less than or equal to 1"),
        (b'{"split": 1}', "split: input should be a valid boolean"),
        (b'{"pausd": true}', "pausd: extra inputs are not permitted"),
        (b'{"opacity": 0.1, "bundle": 9}', "there are 2 bundles, no number 9"),
    ],
)
def test_bodies_that_mean_nothing_change_nothing(served: Running, body: bytes, sentence: str) -> None:
    before = served.state()
    status, told, _ = served.ask("/api/view", body)
    assert status == 400
    assert told["error"].startswith(sentence), told
    assert len(told["error"]) < 300
    after = served.state()
    assert [after[name] for name in ("opacity", "split", "paused")] == [
        before[name] for name in ("opacity", "split", "paused")
    ]


def test_a_large_body_is_refused(served: Running) -> None:
    status, told, _ = served.ask("/api/view", b" " * 5000 + b"{}")
    assert (status, told["error"]) == (413, "the request's body is larger than 4096 bytes")
    chunked = (
        b"POST /api/view HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding:"
        b" chunked\r\n\r\n"
    )
    assert served.raw(
        chunked + b"1000\r\n" + b" " * 4096 + b"\r\n1000\r\n" + b" " * 4096 + b"\r\n0\r\n\r\n"
    ).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 500 + b"\r\n",
        b"POST /api/view HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        (
            b"POST /api/view HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding:"
            b" chunked\r\n\r\n0\r\n\r\n"
        ),
        b"\0" * 3000 + b"\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}\r\nrubbish\r\n\r\n",
        POST + b"Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: 4\r\n\r\nrubb",
    ],
    ids=lambda rubbish: rubbish[:12].decode("latin-1"),
)
def test_rubbish_is_answered_with_an_error_and_the_end(
    served: Running, rubbish: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    before = served.state()["frames"]
    answer = served.raw(rubbish)
    assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.0 400"), answer[:80]
    served.until(lambda state: state["frames"] > before)
    assert capfd.readouterr().err == ""


def test_who_sends_slowly_or_not_at_all_is_dropped(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_S", "BODY_S", "SEND_S"):
        monkeypatch.setattr(server, name, 0.7)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)
    with running(monkeypatch, pair) as app:
        silent, headers, body = (socket.create_connection(("127.0.0.1", app.port), 20) for _ in range(3))
        body.sendall(POST + b"Content-Length: 50\r\n\r\n")
        began = time.monotonic()
        ends: dict[str, float] = {}
        open_ones = {"silent": silent, "headers": headers, "body": body}
        while open_ones and time.monotonic() - began < 20:
            for name, connection in list(open_ones.items()):
                connection.settimeout(0.05)
                try:
                    if name != "silent":
                        connection.send(
                            b"GET /api HTTP/1.1\r\nX-A: b\r\n"[(int(20 * (time.monotonic() - began))) % 20 :][:1]
                            if name == "headers"
                            else b" "
                        )
                    ended = connection.recv(4096) == b""
                except TimeoutError:
                    ended = False
                except OSError:
                    ended = True
                if ended:
                    ends[name] = time.monotonic() - began
                    del open_ones[name]
        assert set(ends) == {"silent", "headers", "body"}, ends
        # More connections than there is room for get a sentence.
        time.sleep(0.2)
        many = [socket.create_connection(("127.0.0.1", app.port), 20) for _ in range(8)]
        told = many[-1].recv(4096)
        assert told.startswith(b"HTTP/1.1 503 "), told
        assert b"too many connections" in told
        for connection in many:
            connection.close()
        time.sleep(0.5)
        app.until(lambda state: state["frames"] > 5)


def test_who_leaves_in_the_midst_of_a_body_is_no_news(served: Running, capfd: pytest.CaptureFixture[str]) -> None:
    for body in (b"Content-Length: 50\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", served.port), 20) as one:
                one.sendall(POST + body)
    before = served.state()["frames"]
    served.until(lambda state: state["frames"] > before + 3)
    assert capfd.readouterr().err == ""


def test_pipelined_requests_from_one_who_reads_nothing(served: Running) -> None:
    viewer = socket.create_connection(("127.0.0.1", served.port), 20)
    viewer.settimeout(0.5)
    try:
        for _ in range(200):
            viewer.sendall(b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
    except OSError:  # nobody takes more
        pass
    before = served.state()["frames"]
    served.until(lambda state: state["frames"] > before + 3)
    viewer.close()


def test_names_are_text(served: Running) -> None:
    told = served.ask("/api/bundles")[1]
    assert told["source"] == "fields <b>&"
    assert [one["name"] for one in told["bundles"]] == ["brightest", "darkest"]
    assert told["bundles"][0]["classes"][0] == {"name": "blue", "colour": "#0000ff"}
    Viewer(served.port).close()
