"""What all commands share: flags, help, the config, leftover arguments, errors as exit status.

A command is a module at the top of `boneage_jax` with a docstring, `FLAGS` and `main(argv)`. `argv`
is as in `sys.argv`: its first item is the program's name. So a command works from Python too, and
several work in one process:

    from boneage_jax import predict
    predict.main(['predict', '--workdir=runs/a', '--input=images/', '--output=ages.csv'])

`main` raises what the command raises. `run` is the way in from the shell: it turns errors of the
user into one message and exit status 1.
"""

import contextlib
import inspect
import io
import os
import pathlib
import signal
import sys
import textwrap

import ml_collections
from absl import flags as absl_flags
from absl import logging

from boneage_jax import config as config_lib
from boneage_jax.errors import ConfigError, UserError
from boneage_jax.runtime import files
from tfds_rsna.problems import DataError

DATA_DIR = 'folder of the raw data; default: $BONEAGE_DATA'
NETWORK = 'folder of a trained run, a file of `boneage export`, or the name of a shipped network'
CONFIG = 'path of a config, with presets and key=value after a colon'
HELP = ('-h', '-help', '--help', '--helpfull')
LABEL_COLUMNS = {'id': 'images', 'male': 'sex', 'months': 'age', 'image': 'file'}


class Flags:
    """The flags of one command, in a set of their own: commands can be imported beside each other.

    `Flags(__doc__)` takes the command's docstring, which `--help` shows. The methods define flags
    as absl's `DEFINE_*` do.
    """

    def __init__(self, about):
        self._about = inspect.cleandoc(about)
        self._definitions = []
        self._required = []
        self._paths = []
        self._takes_config = False

    def string(self, name, default, help_text, *, required=False):
        self._add(absl_flags.DEFINE_string, name, default, help_text, required=required)

    def path(self, name, default, help_text, *, required=False):
        """A file or folder; `~` in it is the home folder, as the shell has it."""
        self._paths.append(name)
        self.string(name, default, help_text, required=required)

    def paths(self, name, default, help_text, *, required=False):
        """Files or folders, comma-separated (one with a comma in quotes); `~` as in `path`."""
        self._paths.append(name)
        self.strings(name, default, help_text, required=required)

    def integer(self, name, default, help_text, *, lower_bound=None):
        self._add(absl_flags.DEFINE_integer, name, default, help_text, lower_bound=lower_bound)

    def number(self, name, default, help_text, *, lower_bound=None):
        self._add(absl_flags.DEFINE_float, name, default, help_text, lower_bound=lower_bound)

    def network(self, name='workdir', *, required=True, otherwise=''):
        """A trained network: a workdir, an exported file or a shipped name."""
        self.path(name, None, NETWORK + otherwise, required=required)

    def networks(self):
        """`--workdir` of one trained network or several; without it the shipped one of ages."""
        several = '; several, comma-separated or a glob: the mean of their ages; default: '
        self.paths('workdir', None, f'{NETWORK}{several}bone_age, which comes with the code')

    def boolean(self, name, default, help_text):
        self._add(absl_flags.DEFINE_boolean, name, default, help_text)

    def strings(self, name, default, help_text, *, required=False):
        self._add(absl_flags.DEFINE_list, name, default, help_text, required=required)

    def choice(self, name, default, choices, help_text):
        self._add(absl_flags.DEFINE_enum, name, default, choices, help_text)

    def config(self, help_text=CONFIG, *, default=None):
        """`--config`, and with it the arguments `--config.KEY=VALUE`."""
        self._takes_config = True
        self.path('config', default, help_text, required=default is None)

    def data_dir(self):
        """`--data_dir`, the folder of the raw data."""
        self.path('data_dir', None, DATA_DIR)

    def labels(self):
        """How to read `--labels`: the columns' names and the unit of ages; see `label_options`."""
        for name, what in LABEL_COLUMNS.items():
            text = f'column of --labels with the {what}, where it has no common name'
            self.string(f'{name}_column', '', text)
        self.choice('age_unit', 'months', ['months', 'years'], 'of the ages in --labels')

    def help(self) -> str:
        """What `--help` shows: the command's docstring and its flags."""
        values = self._defined()
        lines = [self._about, '', 'flags:']
        for _, name, *_ in self._definitions:
            lines += _described(values[name], required=name in self._required)
        if self._takes_config:
            lines += ['  --config.KEY=VALUE', '      sets one key of the config']
        return '\n'.join(lines)

    def parse(self, argv: list[str]) -> tuple[absl_flags.FlagValues, list[str]]:
        """(the flags' values as attributes, the arguments `--config.KEY=VALUE`).

        Raises:
            UserError: a flag has an impossible value or is missing, or an argument is unknown.
            SystemExit: of status 0, where the arguments ask for help.
        """
        if any(argument in HELP for argument in argv[1:]):
            print(self.help())
            sys.exit(0)
        values = self._defined()
        values.set_gnu_getopt()  # flags count behind an argument that is none, too
        try:
            leftover = values(argv, known_only=True)[1:]
        except absl_flags.Error as error:
            raise UserError(f'{" ".join(str(error).split())}; see --help') from error
        overrides = self._overrides(leftover)

        missing = [f'--{name}' for name in self._required if getattr(values, name) is None]
        if missing:
            raise UserError(f'{" and ".join(missing)} must be given; see --help')
        for name in self._paths:
            value = getattr(values, name)
            if isinstance(value, list):
                setattr(values, name, [at_home(item) for item in value])
            elif value:
                setattr(values, name, at_home(value))
        return values, overrides

    def _add(self, define, name, *arguments, required=False, **options):
        self._definitions.append((define, name, arguments, options))
        if required:
            self._required.append(name)

    def _defined(self):
        values = absl_flags.FlagValues()
        for define, name, arguments, options in self._definitions:
            define(name, *arguments, flag_values=values, **options)
        return values

    def _overrides(self, leftover):
        overrides = []
        for argument in leftover:
            if self._takes_config and argument.startswith('--config.') and '=' in argument:
                overrides.append(argument)
                continue
            hint = ', and --config.KEY=VALUE for the config' if self._takes_config else ''
            raise UserError(f'unknown argument {argument!r}; see --help{hint}')
        return overrides


def _described(flag, *, required):
    """The lines of `--help` for a flag."""
    written = f'--[no]{flag.name}' if flag.boolean else f'--{flag.name}={flag.name.upper()}'
    about = flag.help
    if required:
        about += ' (required)'
    elif flag.default not in (None, ''):
        about += f' (default: {str(flag.default).lower() if flag.boolean else flag.default})'
    indent = ' ' * 6
    return [
        f'  {written}',
        *textwrap.wrap(about, 80, initial_indent=indent, subsequent_indent=indent),
    ]


def at_home(path: str) -> str:
    """A path whose `~` is the home folder; UserError where nobody knows that."""
    try:
        return str(pathlib.Path(path).expanduser()) if path.startswith('~') else path
    except RuntimeError as error:
        raise UserError(f'{path}: {error}; write the whole path') from error


def load_config(values, overrides: list[str]) -> ml_collections.ConfigDict:
    """The config that `--config` and the arguments `--config.KEY=VALUE` name, locked."""
    return config_lib.from_command_line(values.config, overrides)


@contextlib.contextmanager
def label_options(values):
    """What the flags of `Flags.labels` say, as keyword arguments of `inference.predict.predict`.

    An error of the table inside this `with` names the flags. It was written for the builder, whose
    keys these flags are.
    """
    columns = {}
    for name in LABEL_COLUMNS:
        column = getattr(values, f'{name}_column')
        if column:
            columns[name] = column
    try:
        yield {'columns': columns, 'age_unit': values.age_unit}
    except DataError as error:
        raise UserError(str(error).replace('data.image_folder.', '--')) from error


def refuse_results(output: pathlib.Path, *results: str, overwrite: bool | None = None) -> None:
    """Refuses (ConfigError) a folder `output` that holds a file of an earlier call.

    Args:
        output: the folder.
        results: the files that the command writes there.
        overwrite: whether they may be replaced; None: the command has no such flag.
    """
    found = [name for name in results if (output / name).exists()]
    if found and not overwrite:
        more = '' if overwrite is None else ', or --overwrite'
        raise ConfigError(
            f'{output} holds results already ({found[0]}); delete it or choose another '
            f'--output{more}'
        )


def refuse_existing(output: pathlib.Path, overwrite: bool, inputs=()) -> None:
    """Refuses (UserError) a file `output` that exists, unless it may be overwritten.

    A folder never is, nor one of the files `inputs` of this command (None for those not given). A
    device or a pipe is written into.
    """
    if output.is_dir():
        raise UserError(f'{output} is a folder; --output names a file')
    for given in filter(None, inputs):
        if output.exists() and os.path.exists(given) and os.path.samefile(output, given):
            raise UserError(f'{output} is read by this command; give another --output')
    if output.exists() and not overwrite and not files.is_special(output):
        raise UserError(f'{output} exists; give another --output, or --overwrite')


def run(main):
    """Runs `main(sys.argv)` as a program: the user's errors end as one message and exit status 1.

    The user's errors are a UserError, or an OSError that names a file (no such file, no
    permission). Anything else is a bug and keeps its traceback. SIGTERM ends the process in an
    orderly way, so that pools of workers and half-written folders are cleaned up.
    """
    absl_flags.FLAGS.mark_as_parsed()  # libraries that have flags of their own read their defaults
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # Orbax and JAX report every file and backend at INFO
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show ends nothing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    exit_on_user_error(main)(sys.argv)


def exit_on_user_error(main):
    """`main(argv)` whose user errors end the process with one message, see `run`."""

    def wrapped(argv):
        signal.signal(signal.SIGTERM, _stop)
        try:
            main(argv)
        except KeyboardInterrupt:
            sys.exit('Interrupted. Run the same command again to continue.')
        except UserError as error:
            sys.exit(f'Error: {error}')
        except OSError as error:
            if error.filename is None:
                raise
            sys.exit(f'Error: {error.filename}: {error.strerror}')
        except (RuntimeError, AssertionError) as error:
            if not _is_missing_device():
                raise
            wanted = os.environ.get('JAX_PLATFORMS')
            sys.exit(
                f'Error: JAX_PLATFORMS={wanted}: no such device here, or this environment has no '
                'build of JAX for it. Unset it, or JAX_PLATFORMS=cpu; BONEAGE_EXTRAS=gpu in front '
                f'of launch/run.sh adds the build for NVIDIA GPUs. ({_first_line(error)})'
            )

    return wrapped


def _is_missing_device():
    """Whether JAX was imported, and cannot start the devices that JAX_PLATFORMS names."""
    jax = sys.modules.get('jax')
    if jax is None or not os.environ.get('JAX_PLATFORMS'):
        return False
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # the latter where its build lacks the platform
        return True
    return False


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0]


def _stop(*_):
    sys.exit('Stopped. Run the same command again to continue.')
