"""The example page in Chromium: its reader gives the greys, and the page the ages, of Python's."""

import base64
import functools
import http.server
import json
import pathlib
import shutil
import threading

import numpy as np
import pytest
from test_portable import MOST, expected, images, onnx_modules, pictures, saved

from boneage_jax.inference import export
from boneage_jax.runs import exported, shipped
from tfds_rsna.io import decoding

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / 'examples' / 'browser'
MODULES = EXAMPLE / 'node_modules'


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012, as in its base
        '.mjs': 'text/javascript',
        '.wasm': 'application/wasm',
        '.html': 'text/html',
    }

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """(a folder with the example's page, its address)."""
    folder = tmp_path / 'page'
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns('node_modules', '*.onnx'))
    if MODULES.is_dir():
        (folder / 'node_modules').symlink_to(MODULES)
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f'http://127.0.0.1:{server.server_port}/index.html'
        server.shutdown()
        thread.join()


def asked(browser, script):
    """What an asynchronous script of the page gives."""
    browser.run(
        f'(() => {{ window.answer = null; ({script})().then('
        'found => { window.answer = JSON.stringify(found) },'
        'error => { window.answer = JSON.stringify({error: error.message}) }); return 1 })()'
    )
    return json.loads(browser.wait('window.answer'))


def in_browser(browser, path, options='{}'):
    """(rows, columns), greys of an image file as reader.mjs decodes and rights it."""
    content = base64.b64encode(path.read_bytes()).decode()
    return asked(
        browser,
        f"""async () => {{
            const reader = await import('./reader.mjs');
            const bytes = Uint8Array.from(atob('{content}'), letter => letter.charCodeAt(0));
            const image = reader.righted(await reader.decode(new Blob([bytes])), {options});
            return {{ shape: [image.height, image.width], greys: [...image.data] }};
        }}""",
    )


def test_the_reader_decodes_as_predict_does(window, served, tmp_path):
    _, address = served
    browser = window()
    browser.open(address)
    for path in pictures(tmp_path):
        wanted = decoding.read(path.read_bytes()).grey
        found = in_browser(browser, path)
        assert tuple(found['shape']) == wanted.shape, path.name
        # A canvas multiplies by the transparency and back.
        most = 1 if path.name == 'solid.png' else 0
        np.testing.assert_allclose(found['greys'], wanted.ravel(), rtol=0, atol=most)
        if most:
            continue
        turned = in_browser(browser, path, '{inverted: true, turns: 3}')
        np.testing.assert_array_equal(turned['greys'], np.rot90(255 - wanted, 3).ravel())
    (tmp_path / 'text.png').write_text('no image')
    assert 'error' in in_browser(browser, tmp_path / 'text.png')


def test_the_page_gives_the_ages(window, served, tmp_path):
    if not MODULES.is_dir():
        pytest.skip('no onnxruntime-web: npm install --prefix examples/browser onnxruntime-web')
    onnx_modules()
    folder, address = served
    run = shipped.ages()
    export.export(run, folder / 'bone_age.onnx', format_name='onnx')
    files = [saved(tmp_path, f'{number}.png', image) for number, image in enumerate(images()[:3])]

    browser = window()
    browser.open(address)
    browser.wait("document.getElementById('status').textContent === 'Ready.'")
    terms = exported.text(exported.read(run), 'terms')
    assert terms in browser.run("document.getElementById('about').textContent")
    element = browser._ask(
        'POST', f'{browser.base}/element', {'using': 'css selector', 'value': '#files'}
    )
    (element,) = element.values()

    def give(paths):
        text = '\n'.join(map(str, paths))
        browser._ask('POST', f'{browser.base}/element/{element}/value', {'text': text})

    give(files[:1])
    browser.wait("document.getElementById('status').textContent.includes('a girl or a boy')")
    browser.run("document.querySelector('input[value=male]').click()")
    give(files)
    browser.wait("document.querySelectorAll('li').length === 3")
    found = browser.run("[...document.querySelectorAll('.details')].map(x => x.textContent)")
    for text, image in zip(found, images()[2::-1], strict=True):  # the last comes first
        months, _ = expected(run, image, True)
        assert abs(float(text.split()[0]) - months) <= MOST
    seen = browser.run("document.querySelectorAll('li canvas').length")
    assert seen == 3
    sent = browser.run(
        "performance.getEntriesByType('resource').map(x => new URL(x.name).host)"
        '.filter(host => host && host !== location.host).length'
    )
    assert sent == 0
