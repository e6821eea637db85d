"""The review by eye: a contact sheet of masks in a local web page, judged from the keyboard.

It is Python's own HTTP server, on the loopback address alone. Each verdict is in the CSV before the
page shows it, so closing the page, the browser or the terminal loses nothing: the page shows the
verdicts again when it is next opened.
"""

import functools
import http
import http.server
import json
import pathlib
import threading
from collections.abc import Callable

from boneage_jax import figures
from boneage_jax.mine import sheets
from boneage_jax.runtime import log
from tfds_rsna.errors import UserError

_PAGE = pathlib.Path(__file__).with_name('page.html')
_LIMIT = 10_000  # bytes of a verdict's request
_SIDE = 320  # pixels of an image on the page


def review(
    images, mask_of: Callable, rows: list[dict], verdicts, *, port: int, title: str = ''
) -> None:
    """Serves the page until its 'Done' is pressed.

    Args:
        images: `images[i]['image']` is uint8 `[H, W, 1]`.
        mask_of: `mask_of(i)` is the mask `[H, W]` of image i.
        rows: what the rule found, `[{'id', 'measures', 'reasons'}]`, one an image.
        verdicts: `verdicts.Verdicts`, which each verdict is added to.
        port: 0 takes any that is free.
        title: of the page.

    Raises:
        UserError: the port is taken.
    """
    with open_server(images, mask_of, rows, verdicts, port=port, title=title) as server:
        port = server.server_port
        log.info(
            f'Review of {len(rows):,} masks: open http://127.0.0.1:{port}/ (from another machine: '
            f'ssh -L {port}:127.0.0.1:{port} HOST). Every verdict goes to {verdicts.path} at once. '
            'Masks without a verdict go by rule. Ctrl-C stops; the same command continues.'
        )
        server.serve_until_done()


def open_server(
    images, mask_of: Callable, rows: list[dict], verdicts, *, port: int, title: str = ''
) -> http.server.ThreadingHTTPServer:
    """The server, bound but not serving yet; arguments as for `review`."""
    try:
        return _Server(('127.0.0.1', port), images, mask_of, rows, verdicts, title)
    except OSError as error:
        raise UserError(
            f'port {port} cannot be used ({error.strerror}); set mine.port, 0 takes any that is '
            'free'
        ) from error


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address, images, mask_of, rows, verdicts, title):
        self.images = images
        self.mask_of = mask_of
        self.rows = rows
        self.verdicts = verdicts
        self.title = title
        # Masks that agree least with the classical ones come first: there a person's eye is worth
        # most.
        self.order = sorted(range(len(rows)), key=self._agreement)
        self.ids = {row['id']: i for i, row in enumerate(rows)}
        self.picture = functools.lru_cache(maxsize=512)(self._picture)
        self._drawing = threading.Lock()
        self.done = threading.Event()
        super().__init__(address, _Handler)

    def _agreement(self, i):
        return self.rows[i]['measures'].get('agreement', 0.0)

    def serve_until_done(self):
        thread = threading.Thread(
            target=self.serve_forever, kwargs={'poll_interval': 0.1}, daemon=True
        )
        thread.start()
        try:
            while not self.done.wait(0.2):  # in pieces, so that Ctrl-C is heard
                pass
        finally:
            self.shutdown()
            thread.join()

    def _picture(self, i):
        with self._drawing:  # masks are read one at a time
            colour = sheets.COLOURS[not self.rows[i]['reasons']]
            image = self.images[i]['image'][..., 0]
            return sheets.png(figures.hand(image, self.mask_of(i), side=_SIDE, outline=colour))

    def listing(self):
        """What the page shows, as JSON."""
        images = []
        for i in self.order:
            row = self.rows[i]
            images.append(
                {
                    'number': i,
                    'id': row['id'],
                    'reasons': row['reasons'],
                    'agreement': round(self._agreement(i), 3),
                    'verdict': self.verdicts.current.get(row['id'], ''),
                }
            )
        return {'title': self.title, 'images': images}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if not self._is_local():
            return
        if self.path == '/':
            self._send('text/html; charset=utf-8', _PAGE.read_bytes())
        elif self.path == '/images.json':
            self._send('application/json', json.dumps(self.server.listing()).encode())
        elif self._number() is not None:
            self._send('image/png', self.server.picture(self._number()))
        else:
            self._refuse(http.HTTPStatus.NOT_FOUND, 'no such page')

    def _number(self):
        """The image that '/image/NUMBER' asks for; None for other paths and numbers."""
        number = self.path.removeprefix('/image/')
        if number == self.path or not number.isdigit() or int(number) >= len(self.server.rows):
            return None
        return int(number)

    def do_POST(self):
        if not self._is_local():
            return
        # Another site's page can post to this machine, but not with this type: its browser would
        # ask first, and be refused.
        is_json = self.headers.get('Content-Type') == 'application/json'
        length = self.headers.get('Content-Length', '')
        if not is_json or not length.isdigit() or int(length) > _LIMIT:
            self._refuse(http.HTTPStatus.BAD_REQUEST, 'expected a short JSON body')
        elif self.path == '/verdict':
            self._judge(self.rfile.read(int(length)))
        elif self.path == '/done':
            self.rfile.read(int(length))
            self._send('application/json', b'{}')
            self.server.done.set()
        else:
            self._refuse(http.HTTPStatus.NOT_FOUND, 'no such page')

    def _judge(self, body):
        try:
            said = json.loads(body)
            if said['id'] not in self.server.ids:
                raise ValueError(f'no image {said["id"]!r}')
            self.server.verdicts.add(said['id'], said['verdict'])
        except (ValueError, KeyError, TypeError) as error:
            self._refuse(http.HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            self._refuse(
                http.HTTPStatus.INSUFFICIENT_STORAGE,
                f'the verdict could not be written: {error.strerror}',
            )
        else:
            self._send('application/json', b'{}')

    def _is_local(self):
        """Refuses names that merely resolve to this machine, as a hostile page's may."""
        name = self.headers.get('Host', '').rpartition(':')[0]
        if name in ('127.0.0.1', 'localhost'):
            return True
        self._refuse(http.HTTPStatus.FORBIDDEN, 'open this page as http://127.0.0.1')
        return False

    def _send(self, kind, body, status=http.HTTPStatus.OK):
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.send_header('Cache-Control', 'no-store')
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status, why):
        self.close_connection = True
        self._send('text/plain; charset=utf-8', why.encode(), status)

    def log_message(self, *_):
        """Logs nothing: the terminal is for the person who reviews."""
