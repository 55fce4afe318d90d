"""A headless Chrome that tests drive by its DevTools protocol over a pipe, with the standard library alone.

The browser is the one that the environment variable CHROME names, or the first of BROWSERS on the path.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe"),
    *("--disable-extensions", "--disable-background-networking", "--disable-component-update"),
)
SECONDS = 60  # that an answer of the browser may take


def find():
    """Return the path of a browser; None without any."""
    named = os.environ.get("CHROME")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Page:
    """A page of the browser, with the addresses that it has requested and what its console has printed."""

    def __init__(self, commands, answers):
        self._commands, self._answers, self._unread, self._number = commands, answers, b"", 0
        self.requests, self.messages, self._loaded, self._session = [], [], False, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        content = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._commands, json.dumps(content).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _next(self):
        """Return the next message of the browser, and keep what it states of requests and of the console."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self._unread:
            assert select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0], "the browser is silent"
            found = os.read(self._answers, 1 << 20)
            assert found, "the browser has ended"
            self._unread += found
        first, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(first)
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":  # also of what is in the page itself
            self.requests += [address for address in [parameters["request"]["url"]] if not address.startswith("data:")]
        elif message.get("method") == "Page.loadEventFired":
            self._loaded = True
        elif message.get("method") == "Log.entryAdded":
            self.messages.append(parameters["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.messages.append(parameters["exceptionDetails"]["exception"]["description"])
        elif message.get("method") == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(each.get("value")) for each in parameters["args"]))
        return message

    def open(self, address):
        """Open an address and wait until the page has loaded; one of the same page loads it again."""
        for url in ("about:blank", address):
            self._loaded = False
            assert "errorText" not in self.call("Page.navigate", url=url), url
            while not self._loaded:
                self._next()

    def value(self, script):
        """Return the value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key, text=""):
        """Press a key and release it."""
        codes = {"Enter": 13, " ": 32, "Tab": 9}
        of = {"key": key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **of)
        self.call("Input.dispatchKeyEvent", type="keyUp", **of)

    def show(self, width=1200, height=900, dark=False, scripts=True, media=""):
        """Set the size of the window, the preferred colours, whether scripts run, and the medium: screen or print."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def screenshot(self, path, whole=True):
        """Write a picture of the page, or of the part in the window, as a PNG file."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(folder):
    """Yield a page of a browser whose profile is in a folder; the browser ends with the context."""
    to_browser, from_us = os.pipe()
    from_browser, to_us = os.pipe()

    def pipes():  # the protocol reads from descriptor 3 and writes to descriptor 4
        copies = os.dup(to_browser), os.dup(to_us)
        os.dup2(copies[0], 3)
        os.dup2(copies[1], 4)

    words = [find(), *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, preexec_fn=pipes, close_fds=False, stdout=quiet, stderr=quiet)
    os.close(to_browser)
    os.close(to_us)
    try:
        yield Page(from_us, from_browser)
    finally:
        os.close(from_us)
        os.close(from_browser)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
