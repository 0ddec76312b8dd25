"""A real Chromium for the tests: pages are opened in it, looked at and clicked through its own protocol."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds for the browser to start, and for a page to load


def browser() -> str:
    """Return the path of Chromium; as root, install it with apt-get when there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    apt_get = shutil.which("apt-get")
    if apt_get is None or os.geteuid() != 0:
        raise AssertionError(f"these tests need one of {', '.join(NAMES)} on PATH: install Chromium")
    for step in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run([apt_get, *step], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"apt-get {step[0]} failed, so there is no Chromium:\n{done.stderr}"
    return browser()


class Page:
    """A file in a Chromium of its own, loaded to its end.

    ``requests`` are the URLs it asked for, its own among them; ``complaints`` what its console and its
    scripts reported.
    """

    def __init__(self, file: Path) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._sent = 0
        self._loaded = False
        self._replies: dict[int, dict[str, Any]] = {}
        self._profile = tempfile.mkdtemp(prefix="segstats-chromium-")
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options += [f"--user-data-dir={self._profile}", "--remote-debugging-pipe", "--window-size=1240,1000"]
        # It reads commands from its descriptor 3 and writes to 4.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", script, "bash", browser(), *options],
            pass_fds=(theirs_in, theirs_out),
            env={**os.environ, "TMPDIR": self._profile},  # where it would leave files when it is killed
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._watch = threading.Timer(PATIENCE, self._kill)  # then reading ends, and the test with it
        self._watch.start()
        self._session: str | None = None
        try:
            self._open(file.resolve().as_uri())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page's JavaScript."""
        reply = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def press(self, key: str) -> None:
        """Press ``Tab`` or ``Enter``."""
        for type_ in ("keyDown", "keyUp"):
            code, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
            self._call(
                "Input.dispatchKeyEvent",
                type=type_,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if type_ == "keyDown" else "",
            )

    def read_out(self, role: str) -> list[str]:
        """Return the names that a screen reader has for everything of a role."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == role]

    def close(self) -> None:
        self._watch.cancel()
        self._kill()
        self._process.wait()
        self._in.close()
        with suppress(BrokenPipeError):  # what it did not read before it ended
            self._out.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _open(self, url: str) -> None:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log", "Page"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setFocusEmulationEnabled", enabled=True)  # or no key gets there
        self._call("Page.navigate", url=url)
        while not self._loaded:
            self._read()

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while self._sent not in self._replies:
            self._read()
        reply = self._replies.pop(self._sent)
        assert "error" not in reply, reply["error"]
        result: dict[str, Any] = reply["result"]
        return result

    def _read(self) -> None:
        """Take in one message."""
        text = bytearray()
        while (byte := self._in.read(1)) != b"\0":
            assert byte, f"Chromium ended, or did not answer within {PATIENCE} seconds"
            text += byte
        message = json.loads(text)
        params = message.get("params", {})
        match message.get("method"):
            case None:
                self._replies[message["id"]] = message
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.complaints.append(json.dumps(params))
            case "Page.loadEventFired":
                self._loaded = True
