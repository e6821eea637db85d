"""Strict settings for every test. They are set before jax is imported, and child processes inherit
them.
"""

import os
import socket
import tempfile

_CACHE = tempfile.TemporaryDirectory(prefix='boneage_cache_')

os.environ['BONEAGE_CACHE'] = _CACHE.name
os.environ['JAX_COMPILATION_CACHE_DIR'] = os.path.join(
    _CACHE.name, 'compiled'
)  # processes share what they compile
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
for _variable in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ.setdefault(_variable, '2')

import pytest  # noqa: E402

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
        'inside',
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
    _CACHE.cleanup()


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
