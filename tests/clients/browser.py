"""A real Chromium, driven over the DevTools protocol as a person would use it: by the roles and the
names that a page shows, with the mouse and the keyboard. Needs nothing but Chromium and Python.

Input (JSON): {"steps": [
    {"open": url},
    {"read": true},                              what the page says
    {"see": {"role": ..., "name": ...}},         whether such a thing is there and can be used
    {"screenshot": path},                        the whole page as a PNG; its width and height
    {"type": {"role": ..., "name": ...}, "text": ...},
    {"press": {"role": ..., "name": ...}, "stays": bool}]}
A name is the beginning of the accessible name. Pressing waits for the next page unless it stays.
Output (JSON): {"said": [what each read, see and screenshot found], "at": last address,
                "complaints": [...]}
"""
import base64
import json
import math
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

PATIENCE = 30


class Browser:
    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="tidegate-browser-")
        commands, self.to_browser = os.pipe()
        self.from_browser, answers = os.pipe()
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            sys.exit("chromium is needed (apt-get install chromium)")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--no-first-run", "--no-proxy-server", "--disable-background-networking",
                 "--window-size=1280,900", "--remote-debugging-pipe",
                 f"--user-data-dir={self.profile}"]
        # Chromium reads its commands from file 3 and answers on file 4.
        redirect = f'exec "$@" 3<&{commands} 4>&{answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", program, *flags], pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.buffer, self.events, self.complaints, self.number = b"", [], [], 0
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "DOM", "Accessibility", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def receive(self, deadline):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(0, deadline - time.time()))
            if not ready:
                raise TimeoutError
            piece = os.read(self.from_browser, 1 << 16)
            if not piece:
                sys.exit("chromium ended")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive(time.time() + PATIENCE)
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.note(answer)

    def note(self, event):
        if event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            # A refusal is a page here, with a status of its own.
            if entry["level"] == "error" and entry["source"] != "network":
                self.complaints.append(entry["text"])
        self.events.append(event.get("method"))

    def until_loaded(self):
        while "Page.loadEventFired" not in self.events:
            self.note(self.receive(time.time() + PATIENCE))

    def open(self, url):
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.until_loaded()

    def script(self, expression):
        return self.call("Runtime.evaluate", expression=expression,
                         returnByValue=True)["result"].get("value")

    def screenshot(self, path):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        size = {"width": math.ceil(size["width"]), "height": math.ceil(size["height"])}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True,
                         clip={"x": 0, "y": 0, "scale": 1, **size})
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))
        return [size["width"], size["height"]]

    def find(self, role, name):
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            properties = {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
            if (not node["ignored"] and node["role"]["value"] == role
                    and node["name"]["value"].startswith(name)
                    and not properties.get("disabled")):
                return node["backendDOMNodeId"]
        return None

    def use(self, role, name):
        node = self.find(role, name)
        if node is None:
            sys.exit(f"there is no {role} `{name}` on the page: {self.script(TEXT)}")
        self.call("DOM.scrollIntoViewIfNeeded", backendNodeId=node)
        return node

    def click(self, node):
        quad = self.call("DOM.getContentQuads", backendNodeId=node)["quads"][0]
        place = {"x": sum(quad[0::2]) / 4, "y": sum(quad[1::2]) / 4}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)


TEXT = "document.title + '\\n' + document.body.innerText"


def main():
    steps, said = json.load(sys.stdin)["steps"], []
    browser = Browser()
    try:
        for step in steps:
            if "open" in step:
                browser.open(step["open"])
            elif "read" in step:
                said.append(browser.script(TEXT))
            elif "see" in step:
                said.append(browser.find(**step["see"]) is not None)
            elif "screenshot" in step:
                said.append(browser.screenshot(step["screenshot"]))
            elif "type" in step:
                browser.click(browser.use(**step["type"]))
                browser.call("Input.insertText", text=step["text"])
            elif step.get("stays"):
                browser.click(browser.use(**step["press"]))
            else:
                node = browser.use(**step["press"])
                browser.events.clear()
                browser.click(node)
                browser.until_loaded()
        json.dump({"said": said, "at": browser.script("location.href"),
                   "complaints": browser.complaints}, sys.stdout)
    finally:
        browser.close()


main()
