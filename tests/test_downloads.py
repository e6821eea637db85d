"""Downloads from a server on this machine: whole, cut, resumed, wrong."""

import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from tfds_rsna.errors import UserError
from tfds_rsna.io import downloads
from tfds_rsna.rsna_bone_age import official

DATA = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`.

    `cut` drops the connection after so many bytes, `cuts` times. Without `ranges` it ignores Range.
    """

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.files, self.requests = {'/image.zip': DATA}, []
        self.cut, self.cuts, self.ranges = 0, 0, True

    def url(self, name='image.zip'):
        return f'http://127.0.0.1:{self.server_port}/{name}'

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get('Range')
        self.server.requests.append(asked)
        data = self.server.files.get(self.path)
        if data is None:
            return self.send_error(404)
        start = int(asked.removeprefix('bytes=').rstrip('-')) if asked and self.server.ranges else 0
        if start >= len(data):
            self.send_response(416)
            self.send_header('Content-Range', f'bytes */{len(data)}')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(data) - start))
        self.end_headers()
        if self.server.cuts:
            self.server.cuts -= 1
            self.wfile.write(data[start : start + self.server.cut])
            self.wfile.flush()
            self.connection.close()
        else:
            self.wfile.write(data[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_whole(server, tmp_path):
    target = downloads.fetch(server.url(), tmp_path / 'new/image.zip', sha256=SHA256.upper())
    assert target.read_bytes() == DATA and [path.name for path in target.parent.iterdir()] == [
        'image.zip'
    ]
    downloads.fetch(server.url(), target, sha256=SHA256)
    assert len(server.requests) == 1, 'a finished file is not fetched again'


def test_a_cut_connection_goes_on_where_it_stopped(server, tmp_path):
    server.cut, server.cuts = 300_000, 2
    target = downloads.fetch(server.url(), tmp_path / 'image.zip', sha256=SHA256, wait=0)
    assert target.read_bytes() == DATA
    first, second, third = (int((asked or 'bytes=0-')[6:-1]) for asked in server.requests)
    assert first == 0 and 200_000 < second <= 300_000 and 450_000 < third <= 600_000


def test_the_next_run_goes_on(server, tmp_path):
    server.cut, server.cuts = 0, 99
    (tmp_path / 'image.zip.part').write_bytes(DATA[:500])
    with pytest.raises(downloads.DownloadError, match='500 bytes are kept in .*image.zip.part'):
        downloads.fetch(server.url(), tmp_path / 'image.zip', wait=0)
    assert not (tmp_path / 'image.zip').exists()
    server.cuts = 0
    assert downloads.fetch(server.url(), tmp_path / 'image.zip').read_bytes() == DATA
    assert server.requests[-1] == 'bytes=500-'


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / 'image.zip.part').write_bytes(b'x' * 500)
    assert downloads.fetch(server.url(), tmp_path / 'image.zip').read_bytes() == DATA


@pytest.mark.parametrize(
    'left', [DATA, DATA + b'too much'], ids=['complete', 'longer than the file']
)
def test_a_part_that_is_whole_or_too_long(left, server, tmp_path):
    (tmp_path / 'image.zip.part').write_bytes(left)
    assert (
        downloads.fetch(server.url(), tmp_path / 'image.zip', sha256=SHA256, wait=0).read_bytes()
        == DATA
    )


def test_a_wrong_digest_leaves_nothing(server, tmp_path):
    with pytest.raises(downloads.DownloadError, match=f'SHA-256 is {SHA256}, not 0000'):
        downloads.fetch(server.url(), tmp_path / 'image.zip', sha256='0' * 64)
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_named_and_not_tried_again(server, tmp_path):
    with pytest.raises(downloads.DownloadError, match='/none.zip: the server says 404'):
        downloads.fetch(server.url('none.zip'), tmp_path / 'none.zip')
    assert len(server.requests) == 1


def test_no_room_is_said_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        downloads.shutil, 'disk_usage', lambda path: type('Usage', (), {'free': 1000})
    )
    with pytest.raises(downloads.DownloadError, match='1,024,000 bytes to come, 1,000 free'):
        downloads.fetch(server.url(), tmp_path / 'image.zip')


def test_official_files(server, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('a.png', DATA)
    whole = buffer.getvalue()
    monkeypatch.setattr(
        official,
        'FILES',
        {
            'train': (official.OfficialFile('image.zip', SHA256, 'small'),),
            'test': (official.OfficialFile('test.zip', None, 'small'),),
        },
    )
    server.files['/test.zip'] = whole[:600_000] + b'?' + whole[600_001:]
    with pytest.raises(downloads.DownloadError, match='test.zip: not a whole zip'):
        official.download(tmp_path, ('train', 'test'), base=server.url(''))
    assert [path.name for path in tmp_path.iterdir()] == ['image.zip']
    server.files['/test.zip'] = whole
    official.download(tmp_path, ('train', 'test'), base=server.url(''))
    assert (tmp_path / 'test.zip').read_bytes() == whole and len(list(tmp_path.iterdir())) == 2
    assert len(server.requests) == 3, 'the finished one is not fetched again'


def test_full_disk(server, tmp_path):
    (tmp_path / 'image.zip.part').symlink_to('/dev/full')
    with pytest.raises(
        downloads.DownloadError, match='the disk is full.*make room and run the same again'
    ) as error:
        downloads.fetch(server.url(), tmp_path / 'image.zip')
    assert isinstance(error.value, UserError) and not (tmp_path / 'image.zip').exists()
