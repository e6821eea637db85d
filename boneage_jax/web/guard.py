"""Who may ask: only this page and programs of its user, whatever pages a browser has open.

A page from elsewhere can make a browser send requests to this machine, and by DNS rebinding even
under a name of its own. So the Host must be this machine, an Origin must be this very server, and
on a network a token must be known as well. Answers forbid the browser to load anything from
elsewhere, to keep anything, and to show the page inside another.
"""

import hmac
import ipaddress
import json
import socket

from starlette.requests import ClientDisconnect

from boneage_jax.web import worker

_HEADERS = {
    'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    'cache-control': 'no-store',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
}
FAULT = 'a fault of the program; its terminal says where'
_SAME = ('', 'none', 'same-origin')  # what Sec-Fetch-Site may say


class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        on_network: whether more than this machine can reach it.
        token: what `Authorization: Bearer` must give on paths below /v1/; '' asks for none.
    """

    def __init__(self, app, *, on_network: bool = False, token: str = ''):
        self._app = app
        self._on_network = on_network
        self._token = token.encode()

    async def __call__(self, scope, receive, send):
        async def guarded(message):
            if message['type'] == 'http.response.start':
                headers = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
                message = message | {'headers': [*message['headers'], *headers]}
            await send(message)

        if scope['type'] != 'http':
            return
        refusal = self._refusal(scope)
        if refusal:
            await _answer(guarded, *refusal)
            return
        try:
            await self._app(scope, receive, guarded)
        except ClientDisconnect:
            pass  # whoever asked is gone
        except Exception as error:
            worker.report(error)  # the application has answered

    def _refusal(self, scope):
        """(status, why) where a request is refused, else None."""
        headers = {key.decode('latin-1'): value for key, value in scope['headers']}
        host = headers.get('host', b'').decode('latin-1')
        if not is_this_machine(host, on_network=self._on_network):
            return 403, 'this server is asked by an address of its machine alone, not by that name'
        origin = headers.get('origin', b'').decode('latin-1')
        site = headers.get('sec-fetch-site', b'').decode('latin-1')
        is_navigation = scope['method'] == 'GET' and not scope['path'].startswith('/v1/')
        if origin and origin not in (f'http://{host}', f'https://{host}'):
            return 403, 'pages of other sites may not use this server'
        if site not in _SAME and not is_navigation:
            return 403, 'pages of other sites may not use this server'
        if self._token and scope['path'].startswith('/v1/'):
            given = headers.get('authorization', b'').strip()
            if not hmac.compare_digest(given, b'Bearer ' + self._token):
                return 401, 'the token is missing or wrong: open the address that was printed'
        return None


def is_this_machine(host: str, *, on_network: bool) -> bool:
    """Whether a Host header names this machine in a way that nobody else can make point to it.

    That is an address (a rebound name is none), `localhost`, and on a network the machine's name.
    """
    name = host.rpartition(':')[0] if ':' in host and not host.endswith(']') else host
    try:
        address = ipaddress.ip_address(name.removeprefix('[').removesuffix(']'))
    except ValueError:
        own = {'localhost'}
        if on_network:
            own |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        return name.lower() in own
    return on_network or address.is_loopback


async def _answer(send, status, why):
    body = json.dumps({'error': why}).encode()
    headers = [(b'content-type', b'application/json')]
    if status == 401:
        headers.append((b'www-authenticate', b'Bearer'))
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
