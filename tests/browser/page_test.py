#!/usr/bin/env python3
"""Opens Service B's page in a real Chromium, headless, and looks at it while both services fail and come back.

  page_test.py FOLDER    of the build

Exits with 77 where there is no Chromium."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time


class Browser:
    """One page of a Chromium, spoken to in the DevTools protocol over two pipes: JSON, each message ended by a NUL."""

    def __init__(self, program):
        self.profile = tempfile.TemporaryDirectory(prefix="page-test-", ignore_cleanup_errors=True)
        its_input, self.output = os.pipe()
        self.input, its_output = os.pipe()
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" 3<&{its_input} 4>&{its_output}', "sh", program, "--headless=new", "--no-sandbox",
             "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "--window-size=1200,900",
             "--disable-dev-shm-usage", "--no-proxy-server", "about:blank"],
            pass_fds=(its_input, its_output), stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(its_input)
        os.close(its_output)
        self.received, self.number, self.session = b"", 0, None
        self.complaints = []  # of the page: errors of its script, what its policy forbade
        self.session = self.open_tab()
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def open_tab(self):
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        return self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def close(self):
        os.close(self.output)  # it ends with the pipe
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.profile.cleanup()

    def receive(self):
        while b"\0" not in self.received:
            assert select.select([self.input], [], [], 30)[0], "Chromium is silent"
            part = os.read(self.input, 1 << 20)
            assert part, "Chromium has ended"
            self.received += part
        message, self.received = self.received.split(b"\0", 1)
        return json.loads(message)

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.number:
            self.note(answer)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def note(self, event):
        parameters = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        entry = parameters.get("entry", {}) if event["method"] == "Log.entryAdded" else {}
        if entry.get("level") == "error" and entry["source"] != "network":  # a 503 is one of those
            self.complaints.append(entry["text"])

    def run(self, script):
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in result, f"{script}: {result}"
        return result["result"].get("value")

    def press(self, key, code, text=""):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      **({"text": text} if text and kind == "keyDown" else {}))


class Services:
    """Both services, each on a port that it keeps."""

    def __init__(self, folder):
        self.folder, self.ports, self.running = folder, {"a": 0, "b": 0}, {}

    def start(self, name):
        flags = [f"--service-a-url=http://127.0.0.1:{self.ports['a']}"] if name == "b" else []
        process = subprocess.Popen(
            [f"{self.folder}/service-{name}/service-{name}", f"--port={self.ports[name]}", "--log-format=json", *flags],
            stdout=subprocess.PIPE, text=True)
        self.running[name] = process
        start_line = process.stdout.readline()
        assert "listening" in start_line, f"service-{name} does not start: {start_line}"
        self.ports[name] = json.loads(start_line)["port"]
        # Nobody reads the rest: it must not fill the pipe.
        subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)

    def signal(self, name, number):
        self.running[name].send_signal(number)

    def kill(self, name):
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def close(self):
        for name in list(self.running):
            self.kill(name)


def eventually(what, condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    print(f"ok: {what}", flush=True)


def check(what, holds):
    assert holds, what
    print(f"ok: {what}", flush=True)


def look(browser, services):
    def text(id_):
        return browser.run(f"document.getElementById('{id_}').textContent")

    def count(kind):
        return browser.run(f"kindNamed.{kind}.count")

    def total():
        return browser.run("kinds.reduce((sum, kind) => sum + kind.count, 0)")

    def says(what, words):
        eventually(f"{what}: the page says so", lambda: words in text("state"))

    def signs(kind):
        return browser.run(f"document.querySelector('#chart .{kind}').getAttribute('d')").count("M")

    browser.send("Page.navigate", url=f"http://127.0.0.1:{services.ports['b']}/")
    eventually("it is loaded", lambda: browser.run("document.readyState") == "complete")
    says("all is well", "All well")
    eventually("calls are drawn", lambda: signs("ok") > 3)
    check("the last answer has status, headers and body",
          all(part in text("answer") for part in ("200 OK", "server-timing", '"service_b":"ok"')))

    services.kill("a")
    says("A is killed", "nobody listens")
    eventually("its calls are counted", lambda: count("connection_refused") > 3 and signs("connection_refused") > 3)
    check("the last answer has the reason", "503 Service Unavailable" in text("answer") and "connection_refused" in text("answer"))

    services.start("a")
    says("A is back", "All well")

    services.signal("a", signal.SIGSTOP)
    eventually("A hangs: calls wait", lambda: signs("waiting") >= 3)
    says("A hangs", "does not answer in time")
    check("at most five at a time", browser.run("waiting.size") <= 5)
    check("each takes the budget", 990 <= browser.run("kindNamed.timeout.took") < 1500)
    services.signal("a", signal.SIGCONT)
    says("A goes on", "All well")

    services.kill("b")
    says("B is gone", "Service B itself does not answer")
    services.start("b")
    says("B is back", "All well")
    services.signal("b", signal.SIGSTOP)
    says("B hangs", "Service B itself does not answer")
    services.signal("b", signal.SIGCONT)
    says("B goes on", "All well")

    odd = '<b>"5 > 3" & 50% \u20ac \U0001f600</b>'
    browser.run(f"document.getElementById('msg').value = {json.dumps(odd)};"
                "document.getElementById('msg').dispatchEvent(new Event('input', {bubbles: true}))")
    eventually("any msg comes back", lambda: json.dumps(odd, ensure_ascii=False) in text("answer"))
    command = text("curl").replace("curl -i", "curl -s --noproxy '*'")
    answer = subprocess.run(["sh", "-c", command], capture_output=True, check=True, text=True).stdout
    check("the command to copy asks the same", json.loads(answer)["service_a"] == {"echo": odd})
    port = services.ports["a"]
    check("the commands have the ports", browser.run(
        f"['run.sh a --port={port}', 'faulty-upstream --port={port}'].every("
        "(words) => document.getElementById('try').textContent.includes(words))"))
    browser.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.run("document.querySelector('#try button').click()")
    eventually("a command is copied", lambda: browser.run("document.querySelector('#try button').textContent") == "Copied")

    browser.run("document.getElementById('rate').focus()")
    browser.press("End", 35)
    before = total()
    time.sleep(2)
    check("the rate is 20 a second, set by key", text("rate-shown") == "20" and 20 <= total() - before <= 42)

    browser.run("document.getElementById('run').focus()")
    browser.press("Enter", 13, "\r")
    says("it is paused by key", "Paused")
    eventually("no call is under way", lambda: browser.run("waiting.size") == 0)
    before = total()
    time.sleep(1)
    check("no calls while it is paused", total() == before)
    browser.run("document.getElementById('once').click()")
    eventually("one call", lambda: total() == before + 1)
    browser.run("document.getElementById('run').click()")
    says("it goes on", "All well")

    other = browser.send("Target.createTarget", url="about:blank")["targetId"]
    browser.send("Target.activateTarget", targetId=other)
    eventually("another tab hides it", lambda: browser.run("document.hidden") and browser.run("waiting.size") == 0)
    before = total()
    time.sleep(1)
    check("no calls while it is hidden", total() == before)
    browser.send("Target.closeTarget", targetId=other)
    browser.send("Page.bringToFront")
    eventually("it goes on when it is seen", lambda: total() > before + 3)

    browser.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    eventually("it fits a phone", lambda: browser.run("document.documentElement.scrollWidth") == 360)
    check(f"nothing to complain about: {browser.complaints}", not browser.complaints)


def main(folder):
    program = shutil.which("chromium")
    if program is None:
        print("skipped: there is no chromium (scripts/setup.sh dev)")
        sys.exit(77)
    services = Services(folder)
    services.start("a")
    services.start("b")
    browser = Browser(program)

    try:
        look(browser, services)
    except AssertionError:
        print("the page said:", browser.run("document.body?.innerText"), "; complaints:", browser.complaints)
        raise
    finally:
        browser.close()
        services.close()


main(*sys.argv[1:])
