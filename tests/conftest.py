"""Strict settings for every test, and runs that tests share.

The settings are made before jax is imported, and child processes inherit them. The processes of
pytest-xdist share one cache: what one of them prepares or compiles the others find.

`finished_run(spec)` gives the workdir of a finished tiny run, trained once for all tests of all
processes. Tests open it and must not write into it (copy it with `shutil.copytree` to change it):

    def test_it(finished_run):
        workdir = finished_run(PRSNET)  # or finished_run('configs/unet.py:tiny')

Take a spec that other tests take too: `PRSNET` (ages), `CLASSIFIER` (age classes), `KEYPOINTS`, or
what tests/test_run.py trains, 'configs/NAME.py:tiny,row=ROW'.
"""

import contextlib
import os
import pathlib
import socket
import tempfile

if 'PYTEST_XDIST_WORKER' in os.environ:
    _OWN_CACHE = None  # that of the process that started this one
else:
    _OWN_CACHE = tempfile.TemporaryDirectory(prefix='boneage_cache_')
    os.environ['BONEAGE_CACHE'] = _OWN_CACHE.name
_CACHE = os.environ['BONEAGE_CACHE']
os.environ['JAX_COMPILATION_CACHE_DIR'] = os.path.join(_CACHE, 'compiled')
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['MPLBACKEND'] = 'Agg'
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'
os.environ['JAX_PLATFORMS'] = os.environ.get('BONEAGE_TEST_PLATFORM', 'cpu')
# Four virtual devices share the cores: on a busy machine one may keep the others waiting in a
# collective for longer than the 40 s after which XLA aborts the process, and programs dispatched
# one behind another make that worse.
os.environ['XLA_FLAGS'] = ' '.join(
    [
        os.environ.get('XLA_FLAGS', ''),
        '--xla_force_host_platform_device_count=4',
        '--xla_backend_optimization_level=1',  # tests compile much and compute little
        '--xla_cpu_collective_call_warn_stuck_timeout_seconds=60',
        '--xla_cpu_collective_call_terminate_timeout_seconds=240',
    ]
).strip()
os.environ['JAX_CPU_ENABLE_ASYNC_DISPATCH'] = '0'
# XLA's threads. By default there are as many as devices: a collective keeps all four waiting, and
# with one of them busy otherwise (a copy for a checkpoint, say) it waits for ever.
os.environ['NPROC'] = '8'
for _variable in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ.setdefault(_variable, '2')

import browser  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
PRSNET = 'configs/prsnet.py:tiny,row=baseline'
CLASSIFIER = 'configs/age_classes.py:tiny,row=custom-3'
KEYPOINTS = 'configs/keypoints.py:tiny,row=heatmaps'

_connect = socket.socket.connect


def _connect_locally(self, address):
    """Stands in for ``socket.connect``: tests may talk to this machine, never to a network."""
    if self.family != getattr(socket, 'AF_UNIX', None) and address[0] not in (
        '127.0.0.1',
        '::1',
        'localhost',
    ):
        raise OSError(f'a test tried to reach the network: {address}')
    return _connect(self, address)


@pytest.fixture
def unchecked_images(monkeypatch):
    """`predict` takes images as they are, as in a checkout without the networks of hands."""
    from boneage_jax.inference import hand_check

    monkeypatch.setattr(hand_check, 'checker', lambda accept_all=False: None)


@pytest.fixture(scope='session')
def finished_run():
    """`finished_run(spec)`: the workdir of that run, finished; see the top of this file."""
    from boneage_jax import config
    from boneage_jax.training import loop
    from tfds_rsna.parallel import lock

    def finished(spec):
        folder = pathlib.Path(_CACHE) / 'finished_runs'
        name = ''.join(c if c.isalnum() else '_' for c in spec)
        with (
            pytest.MonkeyPatch.context() as patch,
            lock.exclusive(folder / f'{name}.lock', wait=True),
        ):
            patch.setenv('BONEAGE_CACHE', _CACHE)
            patch.chdir(ROOT)
            if not (folder / name / 'metrics.json').exists():
                loop.train(config.load(spec)[1], folder / name)
        return folder / name

    return finished


@pytest.fixture(scope='session')
def driver():
    """Address of a running chromedriver. BONEAGE_REQUIRE_BROWSER=1: a missing browser is a failure,
    not a skip.
    """
    if not (browser.CHROMIUM and browser.DRIVER):
        missing = (
            'chromium or chromedriver is missing; on Debian: apt-get install chromium '
            'chromium-driver'
        )
        if os.environ.get('BONEAGE_REQUIRE_BROWSER') == '1':
            pytest.fail(missing)
        pytest.skip(missing)
    with browser.started() as address:
        yield address


@pytest.fixture
def window(driver, tmp_path):
    """`window()` opens a window of Chromium, a `browser.Browser`."""
    opened = []

    def make():
        opened.append(browser.Browser(driver, tmp_path / f'profile{len(opened)}'))
        return opened[-1]

    yield make
    for one in opened[::-1]:
        with contextlib.suppress(AssertionError):  # closed in the test
            one.close()


_crashed = set()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    """Runs a test once more whose process XLA aborted; it fails where that happens again."""
    if crashitem not in _crashed:
        _crashed.add(crashitem)
        sched.mark_test_pending(crashitem)
        report.outcome = 'rerun'


def pytest_configure(config):
    socket.socket.connect = _connect_locally


# Files of a minute or so. They start first, so that no process waits for the other's last file
# (launch/test.sh).
LONG_FILES = [
    f'test_{name}'
    for name in (
        'run',
        'multihost',
        'predict',
        'benchmarks',
        'colab',
        'sweep',
        'adding_a_paper',
        'mine',
        'transfer',
        'prsnet',
        'parity_backbones',
        'no_tensorflow',
        'interpret',
        'score',
    )
]


def pytest_collection_modifyitems(items):
    items.sort(
        key=lambda item: (
            LONG_FILES.index(item.path.stem) if item.path.stem in LONG_FILES else len(LONG_FILES)
        )
    )


def pytest_unconfigure(config):
    socket.socket.connect = _connect
    if _OWN_CACHE:
        _OWN_CACHE.cleanup()


def _parity_skip(report, marked):
    """A skipped comparison with PyTorch proves nothing; where BONEAGE_REQUIRE_PARITY=1 it counts as
    failed.
    """
    if os.environ.get('BONEAGE_REQUIRE_PARITY') == '1' and report.outcome == 'skipped':
        reason = str(report.longrepr)
        if marked or 'torch' in reason:
            report.outcome = 'failed'
            report.longrepr = f'BONEAGE_REQUIRE_PARITY=1, yet it skipped: {reason}'
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _parity_skip((yield), item.get_closest_marker('parity') is not None)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _parity_skip((yield), False)


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    counts = {
        name: len(terminalreporter.stats.get(name, ())) for name in ('passed', 'failed', 'error')
    }
    if not sum(counts.values()) and not config.option.collectonly:
        terminalreporter.write_line(
            'every test was skipped or deselected: that counts as a failure', red=True
        )


def pytest_sessionfinish(session, exitstatus):
    """No test ran: a failure (pytest itself says so only when none was collected)."""
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None:
        return  # a worker of pytest-xdist: the process that started it counts
    ran = any(reporter.stats.get(name) for name in ('passed', 'failed', 'error', 'xfailed'))
    if exitstatus == pytest.ExitCode.OK and not ran and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
