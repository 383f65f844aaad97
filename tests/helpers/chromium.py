"""A headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class NavigatedError(AssertionError):
    """The page was left while it was asked something."""


class Browser:
    """One page of it. Commands go one after the other; events that come meanwhile are kept by their names."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, loop: asyncio.AbstractEventLoop) -> None:
        self._socket, self._loop, self._count = socket, loop, 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result. Raises AssertionError where Chromium refuses it."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, params), 60))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        number = self._count
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise NavigatedError(message["error"]["message"])
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise. Raises AssertionError
        where it throws.
        """
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """Wait until a JavaScript expression is true, also over a change of the page."""
        end = time.monotonic() + seconds
        while not (value := self._value_or_none(expression)):
            assert time.monotonic() < end, (
                f"waited in vain for {expression}; the page says: {self.evaluate('document.body.innerText')}"
            )
            time.sleep(0.05)
        return value

    def _value_or_none(self, expression: str) -> Any:
        """None where the expression throws, or the page was left while it was asked."""
        try:
            return self.evaluate(f"(() => {{ try {{ return {expression} }} catch (error) {{ return null }} }})()")
        except NavigatedError:
            return None

    def press(self, key: str, code: str = "") -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=code)

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of an element."""
        x, y = json.loads(
            self.evaluate(
                f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block:"
                " 'center'}); const r = e.getBoundingClientRect(); return JSON.stringify([r.x + r.width / 2, r.y +"
                " r.height / 2]) })()"
            )
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, **params: Any) -> bytes:
        """PNG."""
        import base64

        return base64.b64decode(self.send("Page.captureScreenshot", format="png", **params)["data"])


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """Skips the test where there is no Chromium, or where it doesn't start."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--mute-audio",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen(
            [program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            port_file, end = Path(folder) / "DevToolsActivePort", time.monotonic() + 40
            while not (port_file.exists() and "\n" in port_file.read_text()):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.skip("Chromium doesn't start here")
                time.sleep(0.05)
            loop = asyncio.new_event_loop()
            session, page = loop.run_until_complete(_connect(port_file.read_text().split("\n")[0], loop))
            try:
                for domain in ("Page", "Runtime", "Network", "Log"):
                    page.send(f"{domain}.enable")
                yield page
            finally:
                loop.run_until_complete(session.close())
                loop.close()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


async def _connect(port: str, loop: asyncio.AbstractEventLoop) -> tuple[aiohttp.ClientSession, Browser]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        pages = [one for one in await answer.json() if one["type"] == "page"]
    socket = await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=64 << 20)
    return session, Browser(socket, loop)
