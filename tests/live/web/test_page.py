"""The page in a real browser, a headless Chromium."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import Browser, browser
from web_app import Running, running

PAGE = Path(__file__).parents[3] / "rdd_deploy" / "live" / "web" / "page"


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    with browser() as one:
        yield one


def picture(page: Browser) -> np.ndarray:
    """What the browser shows of the stream."""
    box = json.loads(page.evaluate("JSON.stringify(document.getElementById('stream').getBoundingClientRect())"))
    shot = page.screenshot(
        clip={"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"], "scale": 1}
    )
    image = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def square(page: Browser) -> float:
    """Where the white square of the source is, as a share of the width."""
    found = np.flatnonzero((picture(page).min(-1) > 90).any(0))
    return float(found.mean()) / picture(page).shape[1] if len(found) else -1.0


def moves(page: Browser) -> None:
    end, first = time.monotonic() + 30, square(page)
    while abs(square(page) - first) < 0.02:
        assert time.monotonic() < end, "the picture stands still"
        time.sleep(0.1)


def local(app: Running, query: str = "") -> str:
    return f"http://127.0.0.1:{app.port}/{query}"


def wait(app: Running, condition: str) -> None:
    """Until the app's own state says so."""
    headers = {"Authorization": f"Bearer {app.place.token}"} if app.place.token else {}
    end = time.monotonic() + 30
    while not eval(condition, {}, {"state": (state := app.ask("/api/status", **headers)[1])}):  # our own words
        assert time.monotonic() < end, f"waited in vain for {condition}: {state}"
        time.sleep(0.05)


def test_a_wrong_token_is_refused_and_the_right_one_opens_the_page(
    guarded: Running, page: Browser, tmp_path: Path
) -> None:
    page.open(local(guarded, "?token=a-wrong-token-of-good-length"))
    page.until("document.title.includes('token needed')")
    assert page.evaluate("document.querySelector('img, script') === null")
    page.evaluate("document.getElementById('token').focus()")
    page.send("Input.insertText", text=guarded.place.token)
    page.click("button")
    page.until("location.search === '' && document.getElementById('source').textContent === 'fields <b>&'")
    assert guarded.place.token not in page.evaluate(
        "location.href + document.cookie + document.documentElement.outerHTML"
    )
    page.until("!document.getElementById('stream').hidden")
    moves(page)

    # Buttons.
    page.click("#split")
    page.until(
        "document.getElementById('split').getAttribute('aria-pressed') === 'true' &&"
        " !document.getElementById('halves').hidden"
    )
    wait(guarded, "state['split']")
    page.click("#split")
    wait(guarded, "not state['split']")
    page.click("#bundles label:nth-of-type(2)")
    wait(guarded, "state['active'][0]['bundle'] == 2")
    page.click("#pause")
    page.until(
        "document.getElementById('fps').textContent === 'paused' && document.getElementById('news').textContent ==="
        " 'paused'"
    )
    page.click("#pause")
    wait(guarded, "not state['paused']")
    page.evaluate("document.getElementById('opacity').focus()")
    page.press("ArrowRight", "ArrowRight")
    wait(guarded, "state['opacity'] == 0.55")
    page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.click("#png")
    end = time.monotonic() + 30
    while not (files := list(tmp_path.glob("rdd_deploy-*.png"))):
        assert time.monotonic() < end
        time.sleep(0.05)
    image = cv2.imread(str(files[0]))
    assert image is not None
    assert image.shape == (240, 320, 3)

    # Keys, the window's; in a field of the page, or with Ctrl, they are the browser's.
    page.evaluate("document.activeElement.blur()")
    for key, condition in (
        ("1", "state['active'][0]['bundle'] == 1"),
        ("v", "state['split']"),
        ("v", "not state['split']"),
        ("-", "abs(state['opacity'] - 0.45) < 0.01"),
        ("+", "abs(state['opacity'] - 0.55) < 0.01"),
        (" ", "state['paused']"),
        (" ", "not state['paused']"),
    ):
        page.press(key)
        wait(guarded, condition)
    page.press("h")
    page.until("document.getElementById('keys').open")
    page.press("2")
    page.click("#use-keys")
    page.evaluate("document.getElementById('keys').close()")
    page.press("2")
    page.evaluate("new Promise((done) => setTimeout(done, 300))")
    wait(guarded, "state['active'][0]['bundle'] == 1")

    # Figures and classes.
    page.until(
        "/^\\d+\\.\\d$/.test(document.getElementById('fps').textContent) &&"
        " /ms/.test(document.getElementById('age').textContent)"
    )
    rows = page.evaluate(
        "Array.from(document.querySelectorAll('#classes tr'), (row) => row.innerText.trim().split(/\\s+/)[0]).join()"
    )
    assert rows == "blue,green,red"
    assert page.evaluate("getComputedStyle(document.querySelector('#classes i')).backgroundColor") == "rgb(0, 0, 255)"
    page.until("document.querySelector('#classes td').textContent.endsWith(' %')")

    # A page that nobody sees costs nothing.
    hide = (
        "Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}}); document.dispatchEvent(new"
        " Event('visibilitychange'))"
    )
    page.evaluate(hide.format("true"))
    wait(guarded, "state['viewers'] == 0")
    page.evaluate(hide.format("false"))
    wait(guarded, "state['viewers'] == 1")
    page.until("!document.getElementById('stream').hidden")
    moves(page)

    # Nothing came from elsewhere, nothing was refused by the policy, no script failed.
    asked = [
        event["params"]["request"]["url"] for event in page.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert [url for url in asked if not url.startswith((local(guarded), "blob:", "data:"))] == []
    said = [event["params"]["entry"]["text"] for event in page.events if event["method"] == "Log.entryAdded"]
    assert [text for text in said if "401" not in text] == []
    assert not [event for event in page.events if event["method"] == "Runtime.exceptionThrown"]
    page.open("about:blank")
    wait(guarded, "state['viewers'] == 0")


def test_a_phone_and_a_screen_reader(served: Running, page: Browser) -> None:
    page.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    try:
        page.open(local(served))
        page.until("document.querySelectorAll('#classes tr').length === 3 && !document.getElementById('stream').hidden")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        small = page.evaluate(
            "Array.from(document.querySelectorAll('button, .button, fieldset label')).filter((e) => e.offsetParent &&"
            " e.offsetHeight < 44).length"
        )
        assert small == 0
        nodes = page.send("Accessibility.getFullAXTree")["nodes"]
        named = [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]
        ]
        assert [
            role
            for role, name in named
            if role in ("button", "slider", "radio", "link", "image", "table", "group") and not name
        ] == []
        assert ("image", "The live picture, each class in its colour") in named
        assert ("slider", "Opacity of the colours") in named
        assert {name for role, name in named if role == "button"} == {"Pause", "Split view", "Keys"}
        assert ("heading", "rdd_deploy live") in named
        ids = page.evaluate("Array.from(document.querySelectorAll('[aria-live=polite]'), (e) => e.id).sort().join()")
        assert ids == "news,trouble"
    finally:
        page.send("Emulation.clearDeviceMetricsOverride")
        page.open("about:blank")


@pytest.mark.slow
def test_the_page_comes_back_after_a_restart(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, page: Browser
) -> None:
    """Browsers don't tell a page that its endless picture was cut."""
    with running(monkeypatch, pair) as first:
        port = first.port
        page.open(local(first))
        page.until("!document.getElementById('stream').hidden")
        wait(first, "state['viewers'] == 1")
    page.until("document.getElementById('trouble').textContent.includes('connection is lost')")
    with running(monkeypatch, pair[::-1], serve=str(port)) as second:
        wait(second, "state['viewers'] == 1")
        moves(page)
        page.until("document.getElementById('trouble').textContent === ''")
        page.until("document.querySelector('#bundles label').innerText.includes('darkest')")
        page.open("about:blank")


def luminance(colour: str) -> float:
    channels = [int(colour[1 + 2 * index : 3 + 2 * index], 16) / 255 for index in range(3)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_wcag_aa_in_both_schemes() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(encoding="utf-8"), re.DOTALL)
    for scheme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        pairs = [
            ("ink", "paper", 4.5),
            ("ink", "card", 4.5),
            ("soft", "paper", 4.5),
            ("soft", "card", 4.5),
            ("warn", "warn-tint", 4.5),
        ]
        pairs += [
            ("on-accent", "accent", 4.5),
            ("edge", "paper", 3),
            ("edge", "card", 3),
            ("accent", "paper", 3),
            ("accent", "card", 3),
        ]
        for first, second, least in pairs:
            bright, dim = sorted((luminance(colours[first]), luminance(colours[second])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= least, (first, second)
