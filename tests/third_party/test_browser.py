"""A real browser on the page of examples/websocket-transport, against `kernel serve`: a person connects, types, reads.

Chromium is driven by its own protocol (DevTools), over a WebSocket. Where none is installed this is left out.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess
from third_party.examples import EXAMPLES, install_example
from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KERNEL = Path(sys.executable).with_name("kernel")
GUARD_SECONDS = 60

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


class Page:
    """One tab. `run` evaluates JavaScript in it; `until` waits until that is true."""

    def __init__(self, devtools: ClientConnection, session: str) -> None:
        self._devtools = devtools
        self._session = session

    def run(self, script: str) -> Any:
        answer = ask(
            self._devtools,
            "Runtime.evaluate",
            session=self._session,
            expression=script,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        deadline = time.monotonic() + GUARD_SECONDS
        while not self.run(script):
            assert time.monotonic() < deadline, f"{script}\nthe log says: {self.log()}"
            time.sleep(0.02)

    def log(self) -> list[str]:
        lines: list[str] = self.run("[...document.querySelectorAll('#log p')].map(line => line.textContent)")
        return lines

    def connect(self, **fields: str) -> None:
        for name, value in fields.items():
            self.run(f"document.getElementById('how').{name}.value = {json.dumps(value)}")
        self.run("document.querySelector('#how button').click()")

    def say(self, text: str) -> None:
        """Type and press Enter, as a person does: by keys, not by script."""
        self.run("document.querySelector('#say input').focus()")
        ask(self._devtools, "Input.insertText", session=self._session, text=text)
        for kind in ("keyDown", "keyUp"):
            enter = {"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            ask(self._devtools, "Input.dispatchKeyEvent", session=self._session, **enter)

    def sees(self, line: str) -> None:
        self.until(f"[...document.querySelectorAll('#log p')].some(p => p.textContent === {json.dumps(line)})")


_numbers = itertools.count(1)


def ask(devtools: ClientConnection, method: str, session: str = "", **params: Any) -> Any:
    number = next(_numbers)
    message = {"id": number, "method": method, "params": params}
    devtools.send(json.dumps(message | ({"sessionId": session} if session else {})))
    while (answer := json.loads(devtools.recv(GUARD_SECONDS))).get("id") != number:
        pass  # an event
    assert "error" not in answer, answer
    return answer["result"]


@pytest.fixture(scope="module")
def devtools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientConnection]:
    """A browser of our own, without a window."""
    profile = tmp_path_factory.mktemp("profile")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--disable-background-networking"]
    assert CHROMIUM is not None
    browser = subprocess.Popen([CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ready = profile / "DevToolsActivePort"
        deadline = time.monotonic() + GUARD_SECONDS
        while not (ready.exists() and len(ready.read_text().split()) == 2):
            assert browser.poll() is None, "the browser does not start"
            assert time.monotonic() < deadline, "the browser does not start"
            time.sleep(0.05)
        port, path = ready.read_text().split()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=GUARD_SECONDS) as client:
            yield client
    finally:
        browser.terminate()
        browser.wait(GUARD_SECONDS)


def open_page(devtools: ClientConnection, url: str) -> Page:
    target = ask(devtools, "Target.createTarget", url=url)["targetId"]
    session = ask(devtools, "Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    page = Page(devtools, session)
    page.until("document.readyState === 'complete' && !!document.getElementById('how')")
    return page


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """Echo and chat, each behind a page of its own."""
    install_example("websocket-transport", tmp_path / "site", monkeypatch)
    environ = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{tmp_path / 'site'}:{EXAMPLES / 'websocket-transport' / 'src'}",
        "XDG_CONFIG_HOME": str(tmp_path),
        "PYTHONUNBUFFERED": "1",
    }
    plugins = ["--plugin", "echo", "--plugin", f"chat?store={tmp_path}/chat.db"]
    listen = ["--listen", "ws://127.0.0.1:0?framing=raw&service=echo"]
    listen += ["--listen", "ws://127.0.0.1:0?framing=raw&service=chat"]
    process = ServerProcess(KERNEL, [*plugins, *listen], environ, tmp_path)
    yield process
    process.end()


def page_of(server: ServerProcess, number: int) -> str:
    return server.endpoints[number].partition("?")[0].replace("ws:", "http:") + "/"


def test_a_person_talks_to_echo(devtools: ClientConnection, server: ServerProcess):
    page = open_page(devtools, page_of(server, 0))
    page.say("too early")
    page.sees("connect first")
    page.connect(service="echo")
    page.sees("connected")
    page.say("")  # what was typed is still there
    page.sees("too early")
    for text in ("hello", "stra\u00dfe \U0001f600", "<b>not bold</b>"):
        page.say(text)
        page.sees(text)
    assert page.run("document.querySelectorAll('#log b').length") == 0
    server.end()
    page.until(
        "[...document.querySelectorAll('#log p')].some(p => p.textContent.startsWith('the connection has ended'))"
    )


def test_two_people_chat(devtools: ClientConnection, server: ServerProcess):
    ada, bob = (open_page(devtools, page_of(server, 1)) for _ in range(2))
    ada.connect(service="chat", nick="ada")
    ada.sees("you are in lobby")
    bob.connect(service="chat", nick="bob")
    bob.sees("you are in lobby")
    ada.sees("bob has come")
    ada.say("good morning")
    bob.sees("ada: good morning")
    bob.say("morning, ada")
    ada.sees("bob: morning, ada")
