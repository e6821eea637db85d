"""The paths of the server: the page's files, and the API."""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from boneage_jax.inference import ages as ages_lib
from boneage_jax.inference import intervals, neighbours
from boneage_jax.runs import shipped
from boneage_jax.web import answers, guard, uploads, words, worker
from tfds_rsna.errors import UserError
from tfds_rsna.io.archive import Archive

_FOLDER = pathlib.Path(__file__).parent
_FILES = {
    '/': ('page.html', 'text/html'),
    '/page.css': ('page.css', 'text/css'),
    '/page.js': ('page.js', 'text/javascript'),
    '/openapi.json': ('openapi.json', 'application/json'),
}
_LONGEST_TABLE = 50_000_000  # bytes of rows that become a CSV
_LINES = 'application/x-ndjson'
_TABLE = 'text/csv'
_WAIT = 0.2  # seconds between two looks whether the queue has room again


@dataclasses.dataclass(frozen=True)
class Service:
    """What the paths use.

    Attributes:
        ages: the loaded networks.
        worker: that predicts, running.
        reference: the training images, None where the network's file has none.
        limits: of a request.
        training: the images that the networks were trained on, see `ages.training_images`.
    """

    ages: ages_lib.Ages
    worker: worker.Worker
    reference: neighbours.Reference | None = None
    limits: uploads.Limits = dataclasses.field(default_factory=uploads.Limits)
    training: Sequence = ()


def build(service: Service, *, on_network: bool = False, token: str = '') -> guard.Guard:
    """The ASGI application; `on_network` and `token` as `guard.Guard` takes them."""
    routes = [Route(path, _static(*what), methods=['GET']) for path, what in _FILES.items()]
    routes += [
        Route('/v1/network', _network(service), methods=['GET']),
        Route('/v1/predict', _predict(service), methods=['POST']),
        Route('/v1/table', _table, methods=['POST']),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _error, Exception: _fault})
    app.router.redirect_slashes = False
    return guard.Guard(app, on_network=on_network, token=token)


async def _error(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({'error': error.detail}, error.status_code, headers=error.headers)


async def _fault(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({'error': guard.FAULT}, 500)


def _static(name, kind):
    content = (_FOLDER / name).read_bytes()

    async def answer(request):
        return Response(content, media_type=kind)

    return answer


def _network(service):
    """What the network is, and what a request may hold."""
    networks = service.ages.networks
    names = [shipped.name_of(place) or place.name for place in networks.places]
    about = {
        'network': ', '.join(names),
        'trained_on': networks.config.data.sex,
        'needs_sex': service.ages.reads_sex or networks.config.data.sex != 'both',
        'level': intervals.LEVEL if service.ages.intervals else None,
        'limits': dataclasses.asdict(service.limits),
    }

    async def answer(request):
        return JSONResponse(about)

    return answer


async def _table(request: Request) -> Response:
    """The CSV of rows that were predicted before."""
    body = b''
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_TABLE:
            raise HTTPException(413, 'too many rows for one table')
    try:
        rows = answers.rows_of_cells(json.loads(body))
        table = answers.csv_of(rows).encode()  # UnicodeError for half a character
    except UserError as error:
        raise HTTPException(400, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f'expected JSON, {{"rows": [cells]}} ({error})') from error
    return Response(table, media_type=_TABLE)


def _predict(service):
    async def answer(request):
        wanted = request.headers.get('accept', '')
        async with contextlib.AsyncExitStack() as stack:
            results = await _begun(service, request, stack)
            if _LINES in wanted:
                kept = stack.pop_all()
                return StreamingResponse(_lines(results, kept), media_type=_LINES)
            found = [each async for each in results]
        if _TABLE in wanted:
            rows = [each['row'] for each in found if each['row']]
            if rows:
                return PlainTextResponse(answers.csv_of(rows), media_type=_TABLE)
            return JSONResponse({'error': 'no image was predicted', 'results': found}, 422)
        return JSONResponse({'results': found})

    return answer


async def _lines(results, kept):
    async with kept:
        async for each in results:
            yield json.dumps(each) + '\n'


async def _begun(service, request, stack) -> AsyncIterator[dict]:
    """The results of a request as they come; its first images are in the queue already.

    Raises HTTPException for what cannot be predicted at all, 503 where the queue is full.
    """
    form = await uploads.read_form(request, service.limits)
    stack.push_async_callback(form.close)
    sent = uploads.asked(form)
    archive = stack.enter_context(Archive(tolerant=True))
    images, others = await run_in_threadpool(uploads.images, sent, archive, service.limits)
    questions = []
    known = [answers.unpredicted(file, 'no_image', reason) for file, reason in others]
    for image in images:
        question = worker.Question(image, ages_lib.known_sex(image, sent.male), sent.look)
        refusal = _refusal(service, question.male)
        if refusal:
            known.append(answers.unpredicted(image.entry.path, *refusal))
        else:
            questions.append(question)
    size = service.ages.batch_size
    chunks = [questions[i : i + size] for i in range(0, len(questions), size)]
    if chunks:
        try:
            service.worker.submit(chunks[0])
        except worker.FullError as error:
            wait = {'Retry-After': str(error.seconds)}
            raise HTTPException(503, str(error), headers=wait) from error
        stack.callback(_cancel, questions)
    return _results(service, known, chunks, pictures=sent.pictures)


def _cancel(questions):
    for question in questions:
        question.future.cancel()


def _refusal(service, male):
    """(code, reason) where an image of that sex cannot be predicted, else None."""
    trained_on = service.ages.networks.config.data.sex
    if male is None:
        if service.ages.reads_sex or trained_on != 'both':
            return 'sex_needed', words.SEX_NEEDED
        return None
    if trained_on != 'both' and male != (trained_on == 'male'):
        return 'other_sex', words.of_other_sex(trained_on)
    return None


async def _results(service, known, chunks, *, pictures):
    """What is known already, then batch by batch what the worker answers.

    A request never has more than a batch in the queue, so that a large zip holds up nobody.
    """
    for each in known:
        yield each
    for i, chunk in enumerate(chunks):
        if i:
            await _submit(service, chunk)
        for question in chunk:
            yield await _result(service, question, pictures)


async def _submit(service, chunk):
    while True:
        try:
            service.worker.submit(chunk)
            return
        except worker.FullError:
            await asyncio.sleep(_WAIT)


async def _result(service, question, pictures):
    file = question.file.entry.path
    try:
        answer = await asyncio.wrap_future(question.future)
        known = bool(ages_lib.trained_on(service.training, [question.file.id]))
        return await run_in_threadpool(
            answers.result, answer, service.reference, trained_on=known, pictures=pictures
        )
    except Exception as error:
        worker.report(error)
        return answers.unpredicted(file, 'fault', words.FAULT)
