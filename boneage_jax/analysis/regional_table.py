"""The grid of regional age nets: Fig. 5 and Fig. 6 of Iglovikov et al. (2018) from the finished
rows of configs/regions.py.

    python -m boneage_jax.sweep --config=configs/regions.py:rsna100 --workdir=runs/regions
    python -m boneage_jax.regional_table --config=configs/regions.py:rsna100 --workdir=runs/regions     # at any time, trains nothing

OUTPUT (by default WORKDIR/grid) gets `table.md` and `table.csv`: the MAE of every net and of the
unweighted means, per column (form and sex) over the three regions, per region over its four nets of
one sex, and over all twelve of them, each with its 95% bootstrap interval and the paper's figure; a
table for each reported split (holdout, test). What is not finished stays an empty cell and is
named; a mean is taken only of all its nets. `grid_SPLIT.png` draws it, `stages.csv` and
`stages_SPLIT.png` the MAE by stage of puberty and region for each sex,
`error_correlation_SPLIT.csv` how far the nets' errors go together.
"""

import pathlib

import numpy as np

from boneage_jax.analysis import ensemble, table
from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import ConfigError
from boneage_jax.figures import regional as grid_figures
from boneage_jax.runtime import files, log
from boneage_jax.tasks import metrics
from tfds_rsna.errors import UserError

ALL = 'all'  # in place of a form, a sex or a region: the mean over them
COLUMNS = ('split', 'form', 'sex', 'region', 'paper', 'ours', 'lower', 'upper', 'images', 'members')
STAGE_COLUMNS = (
    'split',
    'sex',
    'region',
    'stage',
    'from_months',
    'to_months',
    'ours',
    'lower',
    'upper',
    'images',
    'members',
)
STAGES = (
    'pre-puberty',
    'early and mid puberty',
    'late puberty',
    'post-puberty',
)  # the younger two are few: left out there


def finished(swept, seed):
    """`({(form, sex, region): workdir}, [what is missing])` of the grid's rows with that seed."""
    nets, missing, module = {}, [], swept.module
    for form in module.FORMS:
        for sex in module.SEXES:
            for region in module.REGIONS:
                run = swept.run(swept.find(module.cell(form, sex, region)), seed)
                if (state := run.state()) == 'finished':
                    nets[form, sex, region] = run.workdir
                else:
                    missing.append(
                        run.name + (f' ({" ".join(state.split())[:300]})' if state else '')
                    )
    return nets, missing


def columns_of(module):
    """(form, sex) of each column of the table; the last one is the mean over the nets of one sex."""
    return [(form, sex) for form in module.FORMS for sex in module.SEXES] + [(ALL, ALL)]


def paper_of(module, split):
    """The paper's `{(form, sex, region): months}` that may stand beside figures of `split`: its
    1,000 validation images are a draw of the training images as our holdout is; of the test images
    it prints one figure.
    """
    return {'holdout': module.PAPER, 'test': {(ALL, ALL, ALL): module.TEST}}[split]


def cells(module):
    """`{(form, sex, region): the nets of which it is the mean}`: every net, and the paper's means;
    `ALL` as in `COLUMNS`.
    """
    regions = list(module.REGIONS)
    columns = columns_of(module)[:-1]
    of_one_sex = [(form, sex) for form, sex in columns if sex != 'both']
    found = {(*column, region): [(*column, region)] for column in columns for region in regions}
    found |= {(*column, ALL): [(*column, region) for region in regions] for column in columns}
    found |= {
        (ALL, ALL, region): [(*column, region) for column in of_one_sex] for region in regions
    }
    return found | {
        (ALL, ALL, ALL): [(*column, region) for column in of_one_sex for region in regions]
    }


def predicted(nets, members):
    """`{split: Images}`, the reported ones, of the mean of `members` (keys of `nets`)."""
    workdirs = [nets[member] for member in members]
    images = ensemble.load(workdirs)[1] if len(workdirs) > 1 else ensemble.read(workdirs[0])
    return {split: images[split] for split in splits_lib.REPORTED if split in images}


def lines_of(module, nets):
    """A line of table.csv (a dict) for each split and cell whose nets are all finished."""
    lines = []
    for key, members in cells(module).items():
        if not set(members) <= set(nets):
            continue
        for split, images in predicted(nets, members).items():
            lower, upper = metrics.bootstrap(np.abs(images.errors))
            values = (
                split,
                *key,
                paper_of(module, split).get(key),
                float(np.abs(images.errors).mean()),
                lower,
                upper,
                len(images),
                len(members),
            )
            lines.append(dict(zip(COLUMNS, values, strict=True)))
    return lines


def by_stage(module, nets):
    """A line of stages.csv for each split, sex, region (`ALL`: the mean of all regions) and stage
    that has images.

    The nets of one sex stand for it, both forms averaged where both are finished; where it has
    none, those for both sexes do.
    """
    lines = []
    for male, sex in enumerate(('female', 'male')):
        whose = sex if any(key[1] == sex for key in nets) else 'both'
        members = {
            region: [key for key in nets if key[1:] == (whose, region)] for region in module.REGIONS
        }
        if all(members.values()):
            members[ALL] = sum(members.values(), [])
        for region, chosen in members.items():
            for split, images in predicted(nets, chosen).items() if chosen else ():
                images = ensemble.of_sex(images, bool(male))
                lines += [
                    {
                        'split': split,
                        'sex': sex,
                        'region': region,
                        **line,
                        'members': '; '.join(module.cell(*key) for key in chosen),
                    }
                    for line in _stages(images, sex)
                ]
    return lines


def _stages(images, sex):
    names, bounds = metrics.puberty_stage(images.months, images.male), metrics.STAGES[sex]
    ends = dict(zip(bounds, [*list(bounds.values())[1:], None]))
    for stage in STAGES:
        errors = np.abs(images.errors[names == stage])
        if len(errors):
            lower, upper = metrics.bootstrap(errors)
            yield {
                'stage': stage,
                'from_months': bounds[stage],
                'to_months': ends[stage],
                'ours': float(errors.mean()),
                'lower': lower,
                'upper': upper,
                'images': len(errors),
            }


def write(swept, output, seed=0):
    """Writes tables and figures into `output`; returns the lines of table.csv. UserError where no
    row is finished, or where nets cannot be averaged (`ensemble.combine`).
    """
    module, output = swept.module, pathlib.Path(output)
    if not hasattr(module, 'PAPER') or not hasattr(module, 'cell'):
        raise ConfigError(f'{swept.spec}: no grid of regional nets; give configs/regions.py')
    nets, missing = finished(swept, seed)
    if not nets:
        raise UserError(
            f'{swept.workdir}: no row of {swept.spec} is finished with seed {seed}; train them first: python -m '
            f'boneage_jax.sweep --config={swept.spec} --workdir={swept.workdir}'
        )
    lines, stages = lines_of(module, nets), by_stage(module, nets)
    output.mkdir(parents=True, exist_ok=True)
    files.write_rows(output / 'table.csv', COLUMNS, lines, exact=('paper',))
    files.write_rows(output / 'stages.csv', STAGE_COLUMNS, stages)
    text = [f'# {swept.spec}, seed {seed}', '']
    for split in dict.fromkeys(line['split'] for line in lines):
        shown = {
            (line['form'], line['sex'], line['region']): line
            for line in lines
            if line['split'] == split
        }
        text += [f'## {split}', '', *_markdown(module, split, shown), '']
        grid_figures.bars(
            split, shown, columns_of(module), paper_of(module, split), output / f'grid_{split}.png'
        )
        grid_figures.stages(
            split,
            [line for line in stages if line['split'] == split],
            output / f'stages_{split}.png',
        )
        _correlate(module, nets, split, output)
    config = swept.run(swept.rows[0], seed).config
    text += [
        "- MAE in months (95% bootstrap interval over images) [the paper's: beside holdout of its 1,000 "
        'validation images, beside test of the 200 test images]; "all": unweighted means, by region over the nets of one '
        'sex in both forms, at the end over all of these.',
        f"- Data: {table.describe(config.data)} (the first row's); validation selected the checkpoints and is not shown.",
        *([f'- Not finished, its cells are empty: {"; ".join(missing)}.'] if missing else []),
    ]
    files.write_atomic(output / 'table.md', '\n'.join(text) + '\n')
    log.info('\n'.join(text) + f'\n\nTables and figures: {output}')
    return lines


def _markdown(module, split, shown):
    columns, paper = columns_of(module), paper_of(module, split)
    rows = [['region', *(f'{form} {sex}' if form != ALL else ALL for form, sex in columns)]]
    rows.append(['---'] * len(rows[0]))
    rows += [
        [
            region,
            *(
                _cell(shown.get((*column, region)), paper.get((*column, region)))
                for column in columns
            ),
        ]
        for region in (*module.REGIONS, ALL)
    ]
    return ['| ' + ' | '.join(row) + ' |' for row in rows]


def _cell(line, paper):
    ours = (
        '–' if line is None else f'{line["ours"]:.2f} ({line["lower"]:.2f} to {line["upper"]:.2f})'
    )
    return ours if paper is None else f'{ours} [{paper:.2f}]'


def _correlate(module, nets, split, output):
    members = {
        module.cell(*key): images
        for key, workdir in nets.items()
        if split in (images := ensemble.read(workdir))
    }
    matrix = ensemble.error_correlation(members, split) if len(members) > 1 else None
    if matrix is not None:
        ensemble.write_correlation(matrix, list(members), split, output)
