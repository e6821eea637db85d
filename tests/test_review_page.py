"""The review page in a real browser: Chromium, see browser.py."""

import threading

import browser
import numpy as np
import pytest
import requests

from boneage_jax.mine import page, verdicts

KEYS = browser.KEYS


def served(path, count=30):
    """(server, thread) of images '0', '1', ..., image 2 agreeing least with its classical mask,
    then 0, 1, 3, 4, ...
    """
    images = [{'image': np.full((40, 30, 1), i, np.uint8)} for i in range(count)]
    mask = np.zeros((40, 30), bool)
    mask[5:30, 5:20] = True
    rows = [
        {
            'id': str(i),
            'measures': {'agreement': -1 if i == 2 else i / count},
            'reasons': [] if i % 2 else ['area: 0.9 <b>'],
        }
        for i in range(count)
    ]
    server = page.open_server(
        images, lambda i: mask, rows, verdicts.Verdicts(path), port=0, title='round 1'
    )
    thread = threading.Thread(target=server.serve_until_done)
    thread.start()
    return server, thread


def end(server, thread):
    server.done.set()
    thread.join()
    server.server_close()


def said(path):
    return [tuple(line.split(',')[:2]) for line in path.read_text().splitlines()[1:]]


def test_verdicts_by_keyboard_are_on_disk_at_once_and_survive_the_browser(window, tmp_path):
    path = tmp_path / 'verdicts.csv'
    server, thread = served(path)
    try:
        address = f'http://127.0.0.1:{server.server_port}/'
        shown = window()
        shown.open(address)
        assert shown.wait("document.querySelectorAll('figure').length") == 24
        assert shown.run("document.querySelector('figure').innerText").startswith(
            '2 (-1.00) rule refuses: area: 0.9 <b>'
        )
        shown.wait(
            '[...document.images].every(x => x.complete && x.naturalWidth === 240 '
            '&& x.naturalHeight === 320)'
        )
        shown.press('arra')
        shown.wait("document.getElementById('counts').innerText.startsWith('4 of 30')")
        assert said(path) == [('2', 'accept'), ('0', 'reject'), ('1', 'reject'), ('3', 'accept')]
        shown.press('uu')  # takes back 3, then 1
        shown.wait("document.getElementById('counts').innerText.startsWith('2 of 30')")
        assert shown.run("document.querySelector('.current').dataset.id") == '1'
        shown.press(KEYS['right'] + 'r')  # goes on to 3
        shown.wait("document.querySelectorAll('figure.reject').length === 2")
        assert verdicts.read(path) == {'2': 'accept', '0': 'reject', '3': 'reject'}
        shown.press('n')
        assert shown.wait("document.querySelectorAll('figure').length === 6")
        shown.close()  # without a word to the page

        again = window()
        again.open(address)
        again.wait("document.querySelectorAll('figure.accept, figure.reject').length === 3")
        assert (
            again.run("document.querySelector('.current').dataset.id") == '1'
        )  # the first without a verdict
        again.run("document.getElementById('done').click()")
        thread.join(30)
        assert not thread.is_alive()
    finally:
        end(server, thread)


def test_a_verdict_that_cannot_be_saved_is_said(window, tmp_path):
    server, thread = served(tmp_path / 'no such folder' / 'verdicts.csv', count=3)
    try:
        shown = window()
        shown.open(f'http://127.0.0.1:{server.server_port}/')
        shown.wait("document.querySelectorAll('figure').length === 3")
        shown.press('a')
        problem = 'Not saved, image 2: the verdict could not be written'
        shown.wait(f"document.getElementById('problem').innerText.includes('{problem}')")
        assert shown.run("document.querySelectorAll('figure.accept').length") == 0
    finally:
        end(server, thread)


def test_only_this_machine_and_this_page_may_judge(tmp_path):
    server, thread = served(tmp_path / 'verdicts.csv', count=3)
    try:
        assert server.server_address[0] == '127.0.0.1'
        address = f'http://127.0.0.1:{server.server_port}'
        body = {'id': '1', 'verdict': 'accept'}
        assert (
            requests.get(address, headers={'Host': 'evil.example:80'}, timeout=10).status_code
            == 403
        )
        assert requests.post(f'{address}/verdict', data=str(body), timeout=10).status_code == 400
        for wrong in ({'id': 'x', 'verdict': 'accept'}, {'id': '1', 'verdict': 'like'}, ['1'], {}):
            assert requests.post(f'{address}/verdict', json=wrong, timeout=10).status_code == 400
        assert requests.get(f'{address}/image/3', timeout=10).status_code == 404
        picture = requests.get(f'{address}/image/2', timeout=10)
        assert picture.status_code == 200 and picture.content.startswith(b'\x89PNG')
        assert not (tmp_path / 'verdicts.csv').exists()
        assert requests.post(f'{address}/verdict', json=body, timeout=10).status_code == 200
        assert said(tmp_path / 'verdicts.csv') == [('1', 'accept')]
    finally:
        end(server, thread)


def test_a_port_in_use_is_said(tmp_path):
    server, thread = served(tmp_path / 'verdicts.csv', count=3)
    try:
        with pytest.raises(
            page.UserError, match=f'port {server.server_port} cannot be used .*mine.port'
        ):
            page.open_server([], None, [], None, port=server.server_port)
    finally:
        end(server, thread)
