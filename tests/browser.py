"""A window of Chromium, driven through chromedriver (WebDriver); conftest.py has the fixtures."""

import base64
import contextlib
import re
import shutil
import subprocess
import threading
import time

import requests

CHROMIUM, DRIVER = (shutil.which(name) for name in ('chromium', 'chromedriver'))
KEYS = {'right': '\ue014', 'tab': '\ue004', 'space': ' ', 'enter': '\ue007', 'down': '\ue015'}
ARGUMENTS = [
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-sync',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--disable-component-update',
    '--window-size=1200,900',
]
_ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # as WebDriver names elements


@contextlib.contextmanager
def started():
    """The address of a running chromedriver."""
    with subprocess.Popen(
        [DRIVER, '--port=0'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            lines = (
                re.search(r'started successfully on port (\d+)', line) for line in process.stdout
            )
            port = next(found[1] for found in lines if found)
            reader = threading.Thread(target=process.stdout.read)  # a full pipe would stop it
            reader.start()
            yield f'http://127.0.0.1:{port}/session'
        finally:
            process.terminate()
            reader.join()


class Browser:
    """One window: `open(address)`, `press(keys)`, `run(script)`, `wait(script)` and so on."""

    def __init__(self, driver, profile):
        options = {'binary': CHROMIUM, 'args': [*ARGUMENTS, f'--user-data-dir={profile}']}
        wanted = {'capabilities': {'alwaysMatch': {'goog:chromeOptions': options}}}
        self.base = f'{driver}/{self._ask("POST", driver, wanted)["sessionId"]}'

    def _ask(self, how, address, body=None):
        answer = requests.request(how, address, json=body, timeout=60).json()['value']
        assert not isinstance(answer, dict) or 'error' not in answer, answer
        return answer

    def open(self, address):
        self._ask('POST', f'{self.base}/url', {'url': address})

    def press(self, keys):
        actions = [{'type': kind, 'value': key} for key in keys for kind in ('keyDown', 'keyUp')]
        self._ask(
            'POST',
            f'{self.base}/actions',
            {'actions': [{'type': 'key', 'id': 'keyboard', 'actions': actions}]},
        )

    def run(self, script):
        return self._ask(
            'POST', f'{self.base}/execute/sync', {'script': f'return {script}', 'args': []}
        )

    def wait(self, script):
        deadline = time.monotonic() + 60
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, f'{script}: {self.run("document.body.innerText")}'
            time.sleep(0.05)
        return found

    def choose(self, selector, *paths):
        """Gives files to an `<input type=file>`, as its dialog would."""
        text = '\n'.join(map(str, paths))
        self._ask('POST', f'{self._element(selector)}/value', {'text': text})

    def spoken(self, selector):
        """(role, name) of an element, as a screen reader has them."""
        element = self._element(selector)
        return tuple(self._ask('GET', f'{element}/computed{what}') for what in ('role', 'label'))

    def command(self, name, **parameters):
        """A command of Chrome's own protocol."""
        body = {'cmd': name, 'params': parameters}
        return self._ask('POST', f'{self.base}/goog/cdp/execute', body)

    def screenshot(self):
        """The whole page as PNG bytes."""
        found = self.command('Page.captureScreenshot', captureBeyondViewport=True)
        return base64.b64decode(found['data'])

    def close(self):
        self._ask('DELETE', self.base)

    def _element(self, selector):
        how = {'using': 'css selector', 'value': selector}
        return f'{self.base}/element/{self._ask("POST", f"{self.base}/element", how)[_ELEMENT]}'
