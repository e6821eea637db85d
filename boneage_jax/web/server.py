"""The server from start to end: networks loaded, a socket bound, the page opened."""

import ipaddress
import logging
import os
import pathlib
import secrets
import socket
import threading
import warnings
import webbrowser
from collections.abc import Sequence

from boneage_jax.inference import ages as ages_lib
from boneage_jax.runtime import log
from tfds_rsna.errors import UserError

TOKEN = 'BONEAGE_SERVE_TOKEN'  # the environment's variable with the token


def serve(
    workdir: pathlib.Path | str | Sequence[pathlib.Path] | None = None,
    *,
    host: str = '127.0.0.1',
    port: int = 0,
    browser: bool = True,
    calibration: pathlib.Path | None = None,
    batch_size: int = 8,
    queue: int = 256,
    max_megabytes: int = 512,
) -> None:
    """Serves the page and the API until the process is interrupted.

    Args:
        workdir: the network, as `predict.predict` takes it.
        host: the address to bind; other than this machine's own it needs a token, which is that of
            the environment's variable BONEAGE_SERVE_TOKEN, or drawn.
        port: 0 takes any that is free.
        browser: open the page.
        calibration: a file of `boneage_jax.calibrate`, made for this very network.
        batch_size: images at once.
        queue: images that may wait; more are answered 503.
        max_megabytes: of one request.

    Raises:
        UserError: there is no such network, the extra [serve] is not installed, or the address
            cannot be bound.
    """
    try:
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401

        from boneage_jax.web import app, uploads, worker
    except ImportError as error:
        raise UserError(
            f'serve needs the extra [serve] ({error.name} is missing): put BONEAGE_EXTRAS=serve in '
            "front of launch/run.sh, or pip install 'boneage_jax[serve]'"
        ) from error
    on_network = not _is_loopback(host)
    token = os.environ.get(TOKEN, '')
    if on_network and not token:
        token = secrets.token_urlsafe(18)
    with _bound(host, port) as bound:
        networks = ages_lib.Networks(workdir)
        ages = networks.load(batch_size=batch_size, calibration=calibration)
        ages.warm_up()
        service = app.Service(
            ages,
            worker.Worker(ages, most=queue),
            _reference(networks),
            uploads.Limits(megabytes=max_megabytes),
            ages_lib.training_images(networks.places, networks.config),
        )
        _keep_quiet()
        served = app.build(service, on_network=on_network, token=token)
        bound.listen()
        address = _address(bound, host, token)
        log.info(f'Open {address} (Ctrl-C ends). Nothing that is sent is stored.')
        if browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        service.worker.start()
        try:
            server(served).run(sockets=[bound])
        except KeyboardInterrupt:
            pass  # in the background of a shell there is none: SIGINT is ignored there
        finally:
            service.worker.stop()
        log.info('Stopped.')


def server(app):
    """The server of an application; it logs no request and tells nobody what it is."""
    import uvicorn

    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan='off', ws='none'
    )
    return uvicorn.Server(config)


def _is_loopback(host):
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise UserError(
            f'--host={host}: expected an address, as 127.0.0.1 (this machine alone) or 0.0.0.0 '
            '(everybody who can reach it, with a token)'
        ) from error


def _bound(host, port):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise UserError(
            f'--host={host} --port={port} cannot be used ({error}); --port=0 takes a free one'
        ) from error
    return bound


def _address(bound, host, token):
    """What a browser opens; the token is behind #, which no browser sends or logs."""
    shown = host
    if ipaddress.ip_address('127.0.0.1' if host == 'localhost' else host).is_unspecified:
        shown = socket.gethostname()
    if ':' in shown:
        shown = f'[{shown}]'
    address = f'http://{shown}:{bound.getsockname()[1]}/'
    return f'{address}#token={token}' if token else address


def _reference(networks):
    """The training images, None where they are not known."""
    try:
        return networks.reference()
    except UserError as error:
        log.info(f'No neighbours are shown: {error}.')
        return None


def _keep_quiet():
    """Silences libraries: what they log and warn of may quote a file's name or its header."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter('ignore')
