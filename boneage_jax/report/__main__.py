"""One self-contained HTML page over any set of runs: tables, curves, errors by group, worst films, provenance.

    python -m boneage_jax.report --workdir=runs/prsnet --output=report.html
    python -m boneage_jax.report --workdir=runs/prsnet,runs/masks,runs/tsne --output=report.html --title='Our hospital'

Takes workdirs of any task, sweeps' folders, ensembles, scores, and what `inside`, `embeddings`, `stress` and `near_edges`
left, however deep below the folders. Figures come from metrics.json, predictions.csv and table.csv; what an older release
left out is computed by the same functions, and the page says so. It opens from disk without a network and prints.
"""

from absl import app, flags, logging

from boneage_jax.analysis import ensemble
from boneage_jax.runtime import log
from tfds_rsna.errors import UserError


def main(argv):
    logging.set_verbosity(logging.WARNING)
    if argv[1:]:
        raise UserError(f'unknown argument {argv[1]!r}; see --help')
    from boneage_jax.report import page
    page.write(ensemble.expand(_WORKDIR.value), _OUTPUT.value, title=_TITLE.value, data_dir=_DATA_DIR.value,
               films=_FILMS.value)


if __name__ == '__main__':
    _WORKDIR = flags.DEFINE_list('workdir', None, 'folders of runs, sweeps and results, comma-separated; globs are expanded',
                                 required=True)
    _OUTPUT = flags.DEFINE_string('output', None, 'the page to write, NAME.html', required=True)
    _TITLE = flags.DEFINE_string('title', '', 'heading of the page')
    _FILMS = flags.DEFINE_boolean('films', True, 'pictures of the films that went worst (their terms of use apply)')
    _DATA_DIR = flags.DEFINE_string('data_dir', None, 'folder of the raw data; default: $BONEAGE_DATA')
    app.run(log.exit_on_user_error(main))
