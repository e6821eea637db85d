"""The page and the API: predict's own rows, from this machine's own pages alone, and no traces."""

import base64
import concurrent.futures
import contextlib
import csv
import io
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile

import browser
import numpy as np
import pytest
import requests
from dicom_writer import dicom
from PIL import Image

from boneage_jax.data import id_spaces
from boneage_jax.inference import ages as ages_lib
from boneage_jax.inference import hand_look, images, predict
from boneage_jax.runs import shipped
from tfds_rsna.errors import UserError
from tfds_rsna.hand_phantom.render import phantom

ROOT = pathlib.Path(__file__).resolve().parents[1]
TAB = browser.KEYS['tab']

try:
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401

    from boneage_jax.web import answers, app, guard, server, uploads, views, words, worker
except ImportError as missing:
    if os.environ.get('BONEAGE_REQUIRE_SERVE') == '1':
        raise
    pytest.skip(f'the extra [serve] is missing: {missing}', allow_module_level=True)


def png(image):
    data = io.BytesIO()
    Image.fromarray(image).save(data, 'PNG')
    return data.getvalue()


def zipped(files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


@pytest.fixture(scope='module')
def hands():
    return [phantom(91, i, (200, 160))['image'] for i in (0, 1, 2, 3)]


@pytest.fixture(scope='module')
def ages():
    if any(shipped.find(name) is None for name in (*hand_look.NAMES, shipped.AGES)):
        pytest.skip('a checkout without the shipped networks')
    return ages_lib.Networks(None).load(batch_size=4)


@contextlib.contextmanager
def serving(service, **options):
    """The address of a server of `service` in this process."""
    with server._bound('127.0.0.1', 0) as bound:
        served = server.server(app.build(service, **options))
        bound.listen()
        thread = threading.Thread(target=served.run, kwargs={'sockets': [bound]})
        thread.start()
        try:
            yield f'http://127.0.0.1:{bound.getsockname()[1]}'
        finally:
            served.should_exit = True
            thread.join()


@pytest.fixture(scope='module')
def service(ages):
    running = worker.Worker(ages, most=64)
    running.start()
    limits = uploads.Limits(megabytes=2, images=20)
    training = id_spaces.IdSet()
    training.add(['known'], 'elsewhere')
    yield app.Service(ages, running, ages.networks.reference(), limits, [training])
    running.stop()


@pytest.fixture(scope='module')
def address(service):
    with serving(service) as found:
        yield found


def ask(address, files, accept='application/json', headers=None, **fields):
    """The answer to a POST of `{name: bytes}`, or of a list of such pairs."""
    pairs = files.items() if isinstance(files, dict) else files
    return requests.post(
        f'{address}/v1/predict',
        files=[('images', (name, data)) for name, data in pairs],
        data=fields,
        headers={'Accept': accept, **(headers or {})},
        timeout=120,
    )


def results(*arguments, **fields):
    answer = ask(*arguments, **fields)
    assert answer.status_code == 200, answer.text
    return {each['file']: each for each in answer.json()['results']}


def without_file(text):
    """The lines of a CSV without the column `file`, which has the folder of predict's images."""
    rows = list(csv.reader(io.StringIO(text)))
    at = rows[0].index('file')
    return [row[:at] + row[at + 1 :] for row in rows]


def test_the_table_is_that_of_predict_to_the_last_digit(address, hands, tmp_path):
    """In one request, and sent one by one and joined as the page does."""
    files = {f'hand{i}.png': png(hand) for i, hand in enumerate(hands)}
    files['turned.png'] = png(np.ascontiguousarray(np.rot90(hands[0])))
    noise = np.random.default_rng(0).integers(0, 256, (90, 70), np.uint8)
    files['noise.png'] = png(noise)
    files['hand1.dcm'] = dicom(hands[1], PatientSex='M')
    inner = zipped({'deep.png': png(hands[1])})
    more = {'b/hand0.png': png(hands[2]), 'a.png': png(255 - hands[3]), 'in.zip': inner}
    files['more.zip'] = zipped(more)
    folder = tmp_path / 'images'
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(UserError, match='1 of 10 images were not predicted'):
        predict.predict(None, folder, tmp_path / 'ages.csv', sex='female')
    expected = (tmp_path / 'ages.csv').read_text()
    rows = without_file(expected)
    assert len(rows) == 11 and rows[0][:3] == ['id', 'male', 'prediction']
    flags = rows[0].index('flags')
    assert (rows[2][0], rows[2][flags]) == ('hand1.dcm', 'sex_contradicts_header')
    assert rows[9][1:7] == ['False', '', '', '', '', 'refused']

    answer = ask(address, files, 'text/csv', sex='female')
    assert answer.headers['content-type'].startswith('text/csv')
    assert without_file(answer.text) == rows
    sent = []
    for name in reversed(files):
        sent += [
            each['cells'] for each in results(address, {name: files[name]}, sex='female').values()
        ]
    table = requests.post(f'{address}/v1/table', json={'rows': sent}, timeout=10)
    assert table.text == answer.text


def test_an_age_with_its_interval_flags_and_neighbours(address, hands, ages):
    image = png(np.ascontiguousarray(np.rot90(255 - hands[0], 2)))
    found = results(address, {'a.png': image}, sex='male', pictures='true')['a.png']
    row = found['row']
    assert found['status'] == 'ok' and row['male'] and row['flags'] == 'inverted;turned_180'
    half = ages.intervals.widths([True], {'spread': [row['spread']]})[0]
    assert row['upper'] - row['prediction'] == pytest.approx(half)
    assert found['interval'].startswith('90% interval ')
    assert found['flags'][:2] == [words.FLAGS['inverted'], words.FLAGS['turned_180']]
    assert words.TRAINED_ON not in found['flags']
    again = results(address, {'known.png': image}, sex='male')['known.png']
    assert words.TRAINED_ON in again['flags'] and again['row']['flags'] == row['flags']
    near = found['neighbours']
    assert len(near['months']) == len(near['male']) == 5 and 0 <= near['distance_quantile'] <= 1
    view = found['view']
    assert (view['width'], view['height']) == (160, 200)
    assert view['picture'].startswith('data:image/jpeg;base64,')
    (tip, thumb, capitate) = view['points'].values()
    assert tip[1] < thumb[1] < capitate[1] < 200  # upright, as it was put right
    outline = np.concatenate(view['outlines'])
    assert (
        outline.min() >= 0 and (outline.max(0) <= (160, 200)).all() and np.ptp(outline[:, 1]) > 120
    )


def test_bad_images_are_named_and_the_rest_goes_on(address, hands):
    whole = png(hands[0])
    noise = np.random.default_rng(0).integers(0, 256, (90, 70), np.uint8)
    files = [
        ('good.png', whole),
        ('cut.png', whole[: len(whole) // 2]),
        ('noise.png', png(noise)),
        ('chest.dcm', dicom(hands[0], BodyPartExamined='CHEST')),
        ('read me.txt', b'hello'),
        ('bad.zip', b'PK\3\4 no zip'),
        ('out.zip', zipped({'../x.png': whole})),
        ('packed.png.gz', b'\x1f\x8b' + bytes(20)),
        ('huge.zip', zipped({'huge.png': bytes(3_000_000)})[:1_000] + b''),
        ('../../etc/good.png', whole),
    ]
    found = results(address, files, sex='male')
    assert {name for name, each in found.items() if each['status'] == 'ok'} == {
        'good.png',
        'good (2).png',
    }
    assert (
        found['noise.png']['status'] == 'refused'
        and found['noise.png']['row']['prediction'] is None
    )
    for name, reason in {
        'cut.png': 'cut short',
        'chest.dcm': 'CHEST',
        'read me.txt': 'no image that can be read',
        'bad.zip': 'not a whole zip',
        'out.zip': 'climbs out',
        'packed.png.gz': 'unpack it first',
        'huge.zip': 'not a whole zip',
    }.items():
        each = found[name]
        assert each['status'] == 'unpredicted' and reason in each['reason'], each
        assert 'data.on_error' not in each['reason'] and each['row'] is None
    assert ask(address, {'cut.png': whole[:200]}, 'text/csv', sex='male').status_code == 422


def test_the_sex_is_asked_for_by_image(address, hands):
    files = {'a.png': png(hands[0]), 'b.png': png(hands[1])}
    files['girl.dcm'] = dicom(hands[2], PatientSex='F')
    found = results(address, files, sexes=json.dumps({'b.png': 'male'}))
    assert (
        found['a.png']['code'] == 'sex_needed' and 'choose girl or boy' in found['a.png']['reason']
    )
    assert found['b.png']['row']['male'] is True and found['girl.dcm']['row']['male'] is False
    for fields in ({'sex': 'boy'}, {'sexes': '[1]'}, {'sexes': '{'}, {'sexes': '{"a": 1}'}):
        assert ask(address, files, **fields).status_code == 400


def test_one_image_of_many_is_asked_again_and_where_the_network_looked(address, hands, ages):
    files = {'all.zip': zipped({f'{i}.png': png(hand) for i, hand in enumerate(hands)})}
    found = results(
        address, files, sex='male', only='["all.zip/2.png"]', look='true', pictures='true'
    )
    ((name, each),) = found.items()
    assert name == 'all.zip/2.png' and each['row']['id'] == '2'
    (map_,) = each['view']['maps']
    assert re.fullmatch(r'hiding the brightest place .* age by \d+\.\d months', map_['title'])
    assert ask(address, files, only='{}').status_code == 400


def test_hiding_what_decides_changes_the_age(monkeypatch):
    """A network that reads the brightest pixel: the bright spot matters, the rest does not."""

    class Predictor:
        def ages(self, images, male):
            assert set(male) == {True}
            return images.max((1, 2, 3)).astype(float), {}, {}

    reader = ages_lib.Ages.__new__(ages_lib.Ages)
    reader._predictor = Predictor()
    image = np.zeros((80, 64, 1), np.uint8)
    image[32:34, 50:52] = 240  # row 3, column 6 of 8 x 8 cells
    hidden = reader.hidden(image, True)
    assert hidden.shape == (8, 8) and np.unravel_index(hidden.argmax(), (8, 8)) == (3, 6)
    assert hidden[3, 6] > 200 and not hidden[:2].any() and not hidden[5:].any()
    assert not hidden[:, :5].any() and hidden[2, 6] == pytest.approx(hidden[3, 6] / 2)


def test_limits_are_kept_before_anything_is_decoded(address, hands, monkeypatch):
    monkeypatch.setattr(images, 'read', None)
    image = png(hands[0])
    assert ask(address, {'a.png': bytes(2_000_001)}).status_code == 413

    def chunked():  # without a length
        yield from [bytes(100_000)] * 30

    kind = {'Content-Type': 'multipart/form-data; boundary=x'}
    answer = requests.post(f'{address}/v1/predict', data=chunked(), headers=kind, timeout=60)
    assert answer.status_code in (400, 413)
    many = zipped({f'{i}.png': image for i in range(21)})
    answer = ask(address, {'many.zip': many}, sex='male')
    assert answer.status_code == 413 and 'more than 20 images' in answer.json()['error']
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a.png', bytes(2_000_001))
    found = results(address, {'bomb.zip': bomb.getvalue()}, sex='male')
    assert 'unpacks to more than 2 MB' in found['bomb.zip/a.png']['reason']
    for body in ({}, {'rows': []}, {'rows': [{'id': 'a'}]}, {'rows': [1]}, []):
        assert requests.post(f'{address}/v1/table', json=body, timeout=10).status_code == 400


def form(*parts, end=b'--X--\r\n'):
    """The body of a form of (disposition, content) as written."""
    body = b''
    for disposition, content in parts:
        body += b'--X\r\nContent-Disposition: form-data; ' + disposition + b'\r\n\r\n'
        body += content + b'\r\n'
    return body + end


PART = (b'name="images"; filename="a.png"', b'no image')


@pytest.mark.parametrize(
    'body, status, found',
    [
        (form(PART, PART, end=b''), 400, 'cut short'),
        (form(PART, (b'name="images"; filename*=UTF-8\'\'b.png', b'x')), 400, 'filename='),
        (form(PART, (b'name="sexes"', b'{"A.png": "male"}')), 400, "no file 'A.png'"),
        (form(PART, (b'name="only"', b'["b.png"]')), 400, "no file 'b.png'"),
        (form(PART, (b'name="sexes"', b'[' * 50_000)), 400, 'sexes: expected JSON'),
        (form(PART, (b'name="sex"', b'male'), (b'name="sex"', b'female')), 400, 'twice'),
        (form(*[PART] * 21), 413, '20 images'),
    ],
    ids=['cut', 'no-name', 'sex-of-nobody', 'only-nothing', 'nested', 'both', 'many'],
)
def test_forms_that_lose_a_file_or_a_sex_are_refused(address, body, status, found):
    answer = requests.post(
        f'{address}/v1/predict',
        data=body,
        headers={'Content-Type': 'Multipart/Form-Data; boundary=X'},
        timeout=60,
    )
    assert answer.status_code == status and found in answer.json()['error']


def test_what_is_too_deep_in_zips_is_told(address, hands):
    deep = zipped({'a.png': png(hands[0])})
    for _ in range(18):
        deep = zipped({'in.zip': deep})
    (found,) = results(address, {'deep.zip': deep}).values()
    assert found['code'] == 'no_image' and 'too deep' in found['reason']


@pytest.mark.parametrize('body', [b'[' * 200_000, b'\xff', b'{'])
def test_a_table_of_other_things_is_refused(address, body):
    answer = requests.post(f'{address}/v1/table', data=body, timeout=60)
    assert answer.status_code == 400 and 'expected JSON' in answer.json()['error']
    row = dict.fromkeys(answers.COLUMNS, '\ud800')
    answer = requests.post(f'{address}/v1/table', json={'rows': [row]}, timeout=60)
    assert answer.status_code == 400


def test_a_fault_is_told_in_json_and_a_client_that_leaves_is_none(address, monkeypatch):
    told = []
    monkeypatch.setattr(worker.log, 'info', told.append)
    with socket.create_connection(('127.0.0.1', int(address.rpartition(':')[2]))) as leaving:
        leaving.sendall(
            b'POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n'
            b'Content-Type: multipart/form-data; boundary=X\r\n\r\n--X\r\n'
        )
    monkeypatch.setattr(uploads, 'asked', lambda form: 1 / 0)
    answer = ask(address, {'a.png': b'x'})
    assert answer.status_code == 500 and answer.json() == {'error': guard.FAULT}
    for _ in range(100):  # it is logged once the answer is on its way
        if told:
            break
        time.sleep(0.05)
    assert len(told) == 1 and 'ZeroDivisionError' in told[0]


def test_pages_of_others_and_other_names_are_refused(address, hands):
    files = {'a.png': png(hands[0])}
    for headers, status in (
        ({}, 200),
        ({'Origin': address}, 200),
        ({'Host': 'localhost:1'}, 200),
        ({'Host': 'evil.example'}, 403),
        ({'Host': '192.0.2.7'}, 403),
        ({'Host': 'localhost.evil.example:80'}, 403),
        ({'Origin': 'http://evil.example'}, 403),
        ({'Origin': 'null'}, 403),
        ({'Origin': 'http://127.0.0.1:1'}, 403),
        ({'Sec-Fetch-Site': 'cross-site'}, 403),
    ):
        assert ask(address, files, headers=headers, sex='male').status_code == status, headers
    page = requests.get(address, headers={'Host': 'evil.example'}, timeout=10)
    assert page.status_code == 403
    page = requests.get(address, headers={'Sec-Fetch-Site': 'cross-site'}, timeout=10)
    assert page.status_code == 200  # a link to it
    assert "default-src 'none'" in page.headers['content-security-policy']
    assert page.headers['cache-control'] == 'no-store' and 'server' not in page.headers


def test_a_host_is_this_machine_by_its_address_alone():
    for host, local, network in (
        ('127.0.0.1:80', True, True),
        ('[::1]:80', True, True),
        ('[::1]', True, True),
        ('LOCALHOST', True, True),
        ('192.0.2.7:80', False, True),
        ('evil.example', False, False),
        ('', False, False),
    ):
        assert guard.is_this_machine(host, on_network=False) == local
        assert guard.is_this_machine(host, on_network=True) == network


def test_on_a_network_the_token_is_asked_for(service, hands):
    with serving(service, on_network=True, token='sesame') as address:
        files = {'a.png': png(hands[0])}
        assert requests.get(address, timeout=10).status_code == 200
        for given in ({}, {'Authorization': 'Bearer'}, {'Authorization': 'Bearer sesam'}):
            answer = ask(address, files, headers=given, sex='male')
            assert answer.status_code == 401 and answer.headers['www-authenticate'] == 'Bearer'
        right = {'Authorization': 'Bearer sesame'}
        assert ask(address, files, headers=right, sex='male').status_code == 200
    assert server._is_loopback('127.0.0.1') and server._is_loopback('::1')
    assert not server._is_loopback('0.0.0.0')
    with pytest.raises(UserError, match='--host=here: expected an address'):
        server._is_loopback('here')


def test_a_full_queue_says_when_to_come_again_and_batches_are_of_many_requests(
    ages, hands, monkeypatch
):
    taken = []
    go_on = threading.Event()

    def rows(self, batch, male, place=None):
        taken.append(len(batch))
        go_on.wait(30)
        return original(self, batch, male, place)

    original = ages_lib.Ages.rows
    monkeypatch.setattr(ages_lib.Ages, 'rows', rows)
    running = worker.Worker(ages, most=4)
    running.start()
    image = png(hands[0])
    with (
        serving(app.Service(ages, running)) as address,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):

        def one(i):
            return ask(address, {f'{i}.png': image}, sex='male')

        first = pool.submit(one, 0)
        wait_for(lambda: taken)
        waiting = [pool.submit(one, i) for i in range(1, 5)]
        wait_for(lambda: len(running._waiting) == 4)
        full = one(5)
        assert full.status_code == 503 and int(full.headers['retry-after']) >= 1
        assert 'the queue is full' in full.json()['error']
        go_on.set()
        assert {job.result().status_code for job in [first, *waiting]} == {200}
        assert taken == [1, 4]
        zips = {'all.zip': zipped({f'{i}.png': image for i in range(11)})}
        assert len(results(address, zips, sex='male')) == 11  # more than the queue holds
    running.stop()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_fault_of_the_program_costs_no_other_image_and_tells_no_name(
    address, hands, monkeypatch, capsys
):
    original = images.read

    def read(file):
        if 'secret' in file.entry.path:
            raise TypeError(f'at {file.entry.path}')
        return original(file)

    monkeypatch.setattr(images, 'read', read)
    files = {'a.png': png(hands[0]), 'secret.png': png(hands[1]), 'c.png': png(hands[2])}
    found = results(address, files, sex='male')
    assert [each['status'] for each in found.values()] == ['ok', 'unpredicted', 'ok']
    assert found['secret.png']['code'] == 'fault' and 'secret' not in found['secret.png']['reason']
    said = capsys.readouterr().err
    assert 'A fault of the program: TypeError in read' in said and 'secret' not in said


def test_every_flag_has_words():
    assert words.of_flags('inverted;no_hand: blank;bits_stored_ignored;new_one') == [
        'It is a negative: its bones were dark, and were made bright.',
        'No whole hand was found: blank.',
        'The header is of no use in one place, and the pixels decided (bits stored ignored).',
        'new one.',
    ]
    told = set()
    for path in (*ROOT.glob('tfds_rsna/io/*.py'), ROOT / 'boneage_jax/inference/hand_check.py'):
        told |= set(re.findall(r"flags(?:\.append\(| \+ \[|, )'(\w+)'", path.read_text()))
    assert len(told) > 12 and 'way_up_unsure' in told and 'padding_guessed' in told
    for flag in told:
        assert flag in words.FLAGS or flag.endswith(words.UNUSED), flag


def test_maps_and_parts_are_laid_over_the_image():
    """The network saw the image's lower right quarter, twice as large."""
    matrix = np.array([[0.5, 0, 40], [0, 0.5, 30]])
    seen = images.Seen(
        None, np.zeros((80, 60, 1), np.uint8), matrix, np.zeros((80, 60), np.uint8), ''
    )
    values = np.zeros((8, 6))
    values[0, 0] = 1
    own = {
        'part_boxes': np.array([[0, 0, 80, 60], [0, 0, 1, 1]]),
        'part_valid': np.array([True, False]),
        'attention': values,
    }
    view = views.view(seen, own)
    assert view['parts'] == [[[30, 40], [60, 40], [60, 80], [30, 80]]]
    (found,) = view['maps']
    assert found['title'] == 'attention' and found['picture'].startswith('data:image/png')
    picture = views._laid_over(values, (0, 0, 80, 60), matrix, np.ones(2), (60, 80))
    laid = np.asarray(picture)
    assert not laid[:39, :, 3].any() and not laid[:, :29, 3].any() and laid[45:, 35:, 3].all()
    assert laid[42, 32, :3].sum() > 500 and laid[70, 50, :3].sum() < 60


def test_the_description_is_that_of_the_answers(address, hands):
    api = requests.get(f'{address}/openapi.json', timeout=10).json()
    schemas = api['components']['schemas']
    for path, methods in api['paths'].items():
        for method in methods:
            answer = requests.request(method, address + path, timeout=10)
            assert (
                answer.status_code in (200, 400)
                and str(answer.status_code) in (methods[method]['responses'])
            )
    network = requests.get(f'{address}/v1/network', timeout=10).json()
    assert set(network) == set(schemas['Network']['properties'])
    assert network['network'] == 'bone_age' and network['needs_sex'] and network['level'] == 0.9
    files = {'a.png': png(hands[0]), 'b.png': b'', 'c.png': png(hands[1] // 200)}
    for each in results(address, files, sex='male', pictures='true').values():
        fits(each, schemas['Result'], schemas)


def fits(value, schema, schemas):
    """Whether an object has what a schema says that it has, and nothing else, at every depth."""
    if '$ref' in schema:
        schema = schemas[schema['$ref'].rpartition('/')[2]]
    if 'oneOf' in schema:
        schema = schema['oneOf'][0]
    if isinstance(value, list):
        for each in value:
            fits(each, schema['items'], schemas)
    elif isinstance(value, dict) and 'properties' in schema:
        assert set(schema.get('required', ())) <= set(value) <= set(schema['properties'])
        for key, each in value.items():
            fits(each, schema['properties'][key], schemas)
    elif 'enum' in schema:
        assert value in schema['enum']


def test_the_command_opens_and_names_and_headers_stay_out_of_its_log(ages, hands, tmp_path):
    """Also those of a DICOM whose header makes its reader warn."""
    command = [sys.executable, '-m', 'boneage_jax.serve', '--no_browser', '--batch_size=4']
    with (
        open(tmp_path / 'log', 'w') as log,
        subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(lambda: 'Open http' in (tmp_path / 'log').read_text(), 240)
            address = re.search(r'http://127\.0\.0\.1:\d+', (tmp_path / 'log').read_text())[0]
            odd = dicom(hands[0], PatientSex='M', PatientName='Doe^Jane', PatientID='x')
            odd = odd.replace(b'Doe^Jane', b'D\xffe^Jane').replace(b'1.2.3\0', b'1.b.3\0')
            files = {'Jane Doe.dcm': odd, 'Jane Doe.png': odd[:400], 'Jane.png': png(hands[1])[:90]}
            assert len(results(address, files, sex='female')) == 3
        finally:
            process.send_signal(signal.SIGINT)
    said = (tmp_path / 'log').read_text()
    assert 'Jane' not in said and 'Traceback' not in said and said.endswith('Stopped.\n')


def test_a_port_in_use_is_said(address):
    port = int(address.rpartition(':')[2])
    with pytest.raises(UserError, match=f'--port={port} cannot be used .*--port=0 takes'):
        server._bound('127.0.0.1', port)


# The page in Chromium


@pytest.fixture
def files(hands, tmp_path):
    paths = []
    for i, hand in enumerate(hands[:3]):
        paths.append(tmp_path / f'hand{i}.png')
        paths[-1].write_bytes(png(hand))
    return paths


def cards(count):
    return (
        f"document.querySelectorAll('article').length === {count} && "
        "uploads.every(each => each.state === 'done')"
    )


def test_by_keyboard_alone_and_read_aloud(address, window, files):
    shown = window()
    shown.open(address)
    shown.press(TAB)  # the sex: one stop for all three
    assert shown.run('document.activeElement.name') == 'sex'
    shown.press(browser.KEYS['down'])
    assert shown.run("document.querySelector('[name=sex]:checked').value") == 'female'
    shown.press(TAB)
    assert shown.run('document.activeElement.id') == 'files'
    shown.choose('#files', files[0])  # what the dialog would give
    shown.wait(cards(1))
    status = shown.run("document.getElementById('status').innerText")
    years = shown.run("document.querySelector('.age').innerText")
    assert status == f'hand0.png: {years}.' and re.match(r'\d+ years? \d+ months?', years)
    stops = []
    for _ in range(8):
        shown.press(TAB)
        stops.append(shown.run('document.activeElement.id || document.activeElement.localName'))
    table = ['download', 'clear', 'div', 'input', 'input']
    assert stops == [*table, 'select', 'button', 'a']

    assert shown.spoken('#files') == ('button', 'Radiographs of hands')
    assert shown.spoken('[name=sex]')[1].startswith('as the file says')
    assert shown.spoken('#status')[0] == 'status' and shown.spoken('#problem')[0] == 'alert'
    assert shown.spoken('article select') == ('combobox', 'Sex of hand0.png')
    assert shown.spoken('article svg')[1].startswith('Scale from 0 to 20 years: ' + years)
    points = 'key points (fingertip, thumb tip, capitate)'
    assert (
        shown.spoken('.picture')[1] == f'Radiograph hand0.png, with outline of the hand, {points}'
    )
    shown.run("document.querySelector('article button').click()")
    shown.wait("document.querySelector('article svg image.map') && document.body.innerText")
    assert 'Bright: hiding the brightest place' in shown.run('document.body.innerText')
    assert shown.run("document.documentElement.lang === 'en'")
    unnamed = (
        "[...document.querySelectorAll('input, select, button')]"
        '.filter(each => !each.labels?.length && !each.innerText).length'
    )
    assert shown.run(unnamed) == 0


def test_drop_ask_the_sex_choose_it_and_download(address, window, files, tmp_path):
    shown = window()
    shown.open(address)
    drop = (
        '(() => { const bytes = Uint8Array.from(atob("%s"), x => x.charCodeAt(0));'
        'const data = new DataTransfer(); for (const name of ["a.png", "a.png", "b.txt"])'
        'data.items.add(new File([name === "b.txt" ? "text" : bytes], name));'
        'document.getElementById("drop").dispatchEvent(new DragEvent("drop",'
        '{dataTransfer: data, bubbles: true, cancelable: true})); return true; })()'
    )
    shown.run(drop % base64.b64encode(files[0].read_bytes()).decode())
    shown.wait(cards(3))
    titles = "[...document.querySelectorAll('article')].map(each => each.innerText.split('\\n')[0])"
    assert shown.run(titles) == ['a.png', 'a (2).png', 'b.txt']
    text = shown.run('document.body.innerText')
    assert text.count('Girl or boy?') == 4 and 'no image that can be read' in text  # cards, table
    choose = (
        '(select => { select.value = "male"; select.onchange(); return true; })'
        '(document.querySelectorAll("article select")[1])'
    )
    shown.run(choose)
    shown.wait(cards(3))
    ages = "[...document.querySelectorAll('.age')].map(each => each.innerText)"
    found = shown.run(ages)
    assert found[0] == 'Girl or boy?' and re.match(r'\d+ years? \d+ months?', found[1])

    shown.command('Browser.setDownloadBehavior', behavior='allow', downloadPath=str(tmp_path))
    shown.run("document.getElementById('download').click()")
    wait_for(lambda: (tmp_path / 'ages.csv').exists())
    rows = without_file((tmp_path / 'ages.csv').read_text())
    assert len(rows) == 2 and rows[1][:2] == ['a (2)', 'True'] and rows[1][3] == found[1]
    assert shown.run("document.getElementById('problem').innerText") == ''
    shown.run("document.getElementById('clear').click()")
    assert shown.run("document.querySelectorAll('article').length") == 0


def test_phone_width_and_dark_mode(address, window, files):
    shown = window()
    shown.command(
        'Emulation.setDeviceMetricsOverride',
        width=360,
        height=740,
        deviceScaleFactor=1,
        mobile=True,
    )
    shown.open(address)
    shown.run("document.querySelector('[value=male]').click()")
    shown.choose('#files', *files)
    shown.wait(cards(3))
    assert shown.run('innerWidth') == 360
    assert shown.run('document.documentElement.scrollWidth') == 360
    boxes = "[...document.querySelectorAll('article, fieldset, #drop')]"
    assert shown.run(f'{boxes}.every(each => each.getBoundingClientRect().right <= 360)')
    light = shown.run('getComputedStyle(document.body).backgroundColor')
    shown.command(
        'Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': 'dark'}]
    )
    dark = shown.run('getComputedStyle(document.body).backgroundColor')
    assert luminance(dark) < 0.05 < 0.8 < luminance(light)
    colours = 'each => getComputedStyle(document.querySelector(each)).color'
    for colour in shown.run(f"['body', '#hint', '.soft', 'footer a'].map({colours})"):
        assert (luminance(colour) + 0.05) / (luminance(dark) + 0.05) > 4.5, colour


def luminance(colour):
    """Relative luminance (WCAG) of 'rgb(r, g, b)'."""
    values = np.array([int(value) for value in re.findall(r'\d+', colour)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_nothing_is_loaded_from_elsewhere():
    for path in (ROOT / 'boneage_jax/web').glob('page.*'):
        found = set(re.findall(r'https?://[^\s\'"]+', path.read_text()))
        assert found <= {'http://www.w3.org/2000/svg'}  # a name, not an address
