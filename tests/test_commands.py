"""The commands: what they have in common, from a shell and from Python."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

from boneage_jax import __main__ as program
from boneage_jax import cli, ensemble, sweep
from boneage_jax.analysis import sweep as sweep_lib
from boneage_jax.errors import ConfigError
from tfds_rsna.errors import UserError

COMMANDS = program.commands()
# What others call by name: these commands and flags stay.
FIXED = {
    'main': ['config', 'workdir', 'data_dir'],
    'prepare': ['config', 'data_dir', 'runner', 'beam_options', 'beam_folder'],
    'sweep': [
        'config',
        'workdir',
        'data_dir',
        'seeds',
        'rows',
        'reference',
        'print_commands',
    ],
    'predict': [
        'workdir',
        'input',
        'output',
        'labels',
        'sex',
        'overlays',
        'calibration',
        'distance',
        'accept_all',
        'overwrite',
        'batch_size',
        'id_column',
        'male_column',
        'months_column',
        'image_column',
        'age_unit',
    ],
    'serve': [
        'workdir',
        'host',
        'port',
        'no_browser',
        'calibration',
        'batch_size',
        'queue',
        'max_megabytes',
    ],
    'score': ['config', 'workdir', 'output', 'data_dir'],
    'export': [
        'format',
        'hub',
        'workdir',
        'output',
        'dtype',
        'figures',
        'about',
        'embeddings',
        'measure_rounding',
        'max_megabytes',
        'data_dir',
    ],
}


def command(name):
    module, _ = COMMANDS[name]
    return importlib.import_module(module)


def test_all_commands_are_listed():
    assert {'main', 'prepare', 'predict', 'sweep', 'score', 'export', 'mine', 'report'} <= set(
        COMMANDS
    )
    done = subprocess.run([sys.executable, '-m', 'boneage_jax'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, (_, about) in COMMANDS.items():
        assert f'  {name}' in done.stdout and about in done.stdout
    assert '`boneage train` is `boneage main`' in done.stdout


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_says_in_a_line_what_it_does(name):
    _, about = COMMANDS[name]
    assert about.endswith('.') and len(about) <= 100
    text = command(name).__doc__
    assert text.splitlines()[1] == '' and f'python -m boneage_jax.{name} ' in text


@pytest.mark.parametrize('name', COMMANDS)
def test_help_shows_every_flag_and_none_of_absl(name, capsys):
    with pytest.raises(SystemExit) as ended:
        command(name).main([name, '--help'])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(COMMANDS[name][1])
    assert ('(required)' in text) == bool(command(name).FLAGS._required)
    assert '--flagfile' not in text and '--undefok' not in text
    for flag in FIXED.get(name, ()):
        assert f'--{flag}=' in text or f'--[no]{flag}' in text


def test_help_needs_no_jax():
    """Of all commands, in one process: so their flags do not get into each other's way either."""
    lines = ['import importlib, sys', 'sys.modules["jax"] = None  # importing it is an error']
    for name, (module, _) in COMMANDS.items():
        lines += [
            f'command = importlib.import_module({module!r})',
            f'try: command.main([{name!r}, "-h"])',
            'except SystemExit as ended: assert ended.code == 0',
        ]
    done = subprocess.run([sys.executable, '-c', '\n'.join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('flags:') == len(COMMANDS)


@pytest.mark.parametrize('name', COMMANDS)
def test_arguments_that_are_none_of_a_commands_are_refused(name):
    for argument in ('leftover', '--unknown=1', '--unknown'):
        with pytest.raises(UserError, match=f"unknown argument '{argument}'; see --help"):
            command(name).main([name, argument])


@pytest.mark.parametrize('name', [name for name in COMMANDS if name != 'serve'])  # needs none
def test_missing_flags_are_named_in_one_line(name):
    with pytest.raises(UserError, match=r'^--\w+( and --\w+)* must be given; see --help$'):
        command(name).main([name])


def test_values_of_flags():
    flags = cli.Flags('About.')
    flags.config(default='configs/prsnet.py')
    flags.integer('seeds', 1, 'how many', lower_bound=1)
    flags.boolean('overwrite', True, 'replace')
    flags.strings('rows', None, 'which')
    values, overrides = flags.parse(
        ['x', '--seeds=2', '--config.seed=3', '--nooverwrite', '--rows=a,b']
    )
    assert (values.seeds, values.overwrite, values.rows) == (2, False, ['a', 'b'])
    assert overrides == ['--config.seed=3'] and values.config == 'configs/prsnet.py'
    assert flags.parse(['x'])[0].overwrite and flags.parse(['x', '--overwrite'])[0].overwrite
    for argument, words in (
        ('--seeds=0', 'seeds=0'),
        ('--seeds=many', 'seeds=many'),
        ('--config.seed', "unknown argument '--config.seed'.*--config.KEY=VALUE"),
    ):
        with pytest.raises(UserError, match=words):
            flags.parse(['x', argument])


def test_a_command_is_called_from_python(tmp_path, monkeypatch):
    """Several in one process, and the user's errors as exceptions."""
    trained = []
    monkeypatch.setattr(
        sweep_lib, 'train_all', lambda swept, runs, data_dir: trained.append([r.name for r in runs])
    )
    arguments = ['sweep', '--config=configs/prsnet.py:tiny', f'--workdir={tmp_path}']
    sweep.main([*arguments, '--rows=full', '--seeds=2'])
    sweep.main([*arguments, '--config.epochs=1', '--rows=baseline'])
    assert trained == [['full, seed 0', 'full, seed 1'], ['baseline, seed 0']]
    with pytest.raises(UserError, match="unknown row 'fool'"):
        sweep.main([*arguments, '--rows=fool'])
    with pytest.raises(UserError, match='give the workdir of a run'):
        command('export').main(['export', f'--workdir={tmp_path}', '--output=x.safetensors'])


def test_from_a_shell_errors_are_one_message_and_status_1(tmp_path):
    for arguments, words in (
        (['prediction'], "Error: unknown command 'prediction'\n\nusage: boneage COMMAND"),
        (['predict', 'x'], "Error: unknown argument 'x'; see --help\n"),
        (['train', f'--workdir={tmp_path}'], 'Error: --config must be given; see --help\n'),
    ):
        done = subprocess.run(
            [sys.executable, '-m', 'boneage_jax', *arguments], capture_output=True, text=True
        )
        assert done.returncode == 1 and done.stderr.startswith(words), done.stderr
        assert done.stdout == '' and 'Traceback' not in done.stderr


@pytest.mark.parametrize('name', sorted(COMMANDS))
def test_every_flag_of_a_place_has_the_home_folder(name, monkeypatch):
    """What a help text calls a file, a folder, a CSV or a picture takes `~`."""
    monkeypatch.setenv('HOME', '/home/somebody')
    flags = command(name).FLAGS
    places = re.compile(r'folder|\bfile\b|CSV|workdir|page to write|image, a|calibration', re.I)
    defined = flags._defined()
    for _, flag, *_ in flags._definitions:
        about = defined[flag].help
        if flag.endswith('_column') or not places.search(about):
            continue
        if not isinstance(defined[flag].default, str | list | None):
            continue
        assert flag in flags._paths, f'--{flag}: {about}'


def test_the_home_folder_in_a_path(monkeypatch):
    monkeypatch.setenv('HOME', '/home/somebody')
    flags = cli.Flags('about')
    flags.path('output', None, 'file')
    flags.paths('runs', None, 'folders')
    flags.string('title', '', 'text')
    values, _ = flags.parse(['x', '--output=~/a.csv', '--runs=~/b,"c,~d",/e', '--title=~/t'])
    assert values.output == '/home/somebody/a.csv' and values.title == '~/t'
    assert values.runs == ['/home/somebody/b', 'c,~d', '/e']
    with pytest.raises(UserError, match='write the whole path'):
        flags.parse(['x', '--output=~no_such_user_here/a.csv'])


def test_results_of_an_earlier_call_stay(tmp_path):
    cli.refuse_results(tmp_path, 'metrics.json')
    (tmp_path / 'predictions.csv').write_text('id\n')
    both = ('metrics.json', 'predictions.csv')
    words = r'holds results already \(predictions.csv\); delete it or choose another --output'
    with pytest.raises(ConfigError, match=f'{words}$'):
        cli.refuse_results(tmp_path, *both)
    cli.refuse_results(tmp_path, *both, overwrite=True)
    arguments = ['ensemble', f'--workdirs={tmp_path}', f'--output={tmp_path}']
    with pytest.raises(ConfigError, match=f'{words}, or --overwrite'):
        ensemble.main(arguments)
    with pytest.raises(UserError, match='holds a run; choose a folder'):
        ensemble.main([*arguments, '--overwrite'])


def test_what_is_read_is_not_written_over(tmp_path):
    path = tmp_path / 'labels.csv'
    path.write_text('mine')
    with pytest.raises(UserError, match='labels.csv exists; give another --output, or --overwrite'):
        cli.refuse_existing(path, False)
    cli.refuse_existing(path, True, (None, tmp_path / 'none'))
    with pytest.raises(UserError, match='is read by this command'):
        cli.refuse_existing(path, True, (tmp_path / '..' / tmp_path.name / 'labels.csv',))
    with pytest.raises(UserError, match='is a folder; --output names a file'):
        cli.refuse_existing(tmp_path, True)
    cli.refuse_existing(pathlib.Path('/dev/stdout'), False)


@pytest.mark.parametrize('platform', ['gpu', 'cuda', 'tpux'])
def test_a_device_that_is_not_there_is_a_sentence(platform):
    code = (
        'import sys\nfrom boneage_jax import cli\n'
        'def main(argv):\n    import jax\n    jax.numpy.zeros(3)\n'
        'cli.run(main)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | {'JAX_PLATFORMS': platform},
        capture_output=True,
        text=True,
    )
    if platform != 'tpux' and done.returncode == 0:
        pytest.skip('this machine has such a device')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert f'Error: JAX_PLATFORMS={platform}: no such device here' in done.stderr
