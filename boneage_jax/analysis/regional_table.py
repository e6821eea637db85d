"""The grid of regional age nets: Iglovikov et al. (2018), Fig. 5 and 6, of configs/regions.py.

A net is a cell (form, sex, region): regression or classification, of boys, girls or both, on the
hand, the carpus, or the metacarpals. `ALL` in place of one of the three is the mean over it. What
is not finished has an empty cell; a mean is taken only of all its nets.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

import numpy as np

from boneage_jax import cli
from boneage_jax.analysis import ensemble, sweep, table
from boneage_jax.data import splits as splits_lib
from boneage_jax.errors import ConfigError
from boneage_jax.figures import regional as grid_figures
from boneage_jax.runs import predictions
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
_TABLES = ('table.md', 'table.csv', 'stages.csv')
# The younger two are few: left out here.
STAGES = ('pre-puberty', 'early and mid puberty', 'late puberty', 'post-puberty')

Cell = tuple[str, str, str]  # form, sex, region


def finished(swept: sweep.Sweep, seed: int) -> tuple[dict[Cell, pathlib.Path], list[str]]:
    """(`{cell: workdir}` of the finished nets with that seed, the names of those that are not)."""
    nets = {}
    missing = []
    for cell in _all_nets(swept.module):
        run = swept.run(swept.find(swept.module.cell(*cell)), seed)
        state = run.state()
        if state == 'finished':
            nets[cell] = run.workdir
        else:
            missing.append(sweep.with_reason(run.name, state))
    return nets, missing


def _all_nets(module):
    for form, sex in columns_of(module)[:-1]:
        for region in module.REGIONS:
            yield form, sex, region


def columns_of(module: ModuleType) -> list[tuple[str, str]]:
    """(form, sex) of each column of the table; the last is the mean over the nets of one sex."""
    columns = [(form, sex) for form in module.FORMS for sex in module.SEXES]
    return [*columns, (ALL, ALL)]


def paper_of(module: ModuleType, split: str) -> dict[Cell, float]:
    """The paper's months `{cell: MAE}` that may be put beside figures of `split`.

    Its 1,000 validation images are a draw of the training images, as our holdout is. Of the test
    images it prints one figure.
    """
    return {'holdout': module.PAPER, 'test': {(ALL, ALL, ALL): module.TEST}}.get(split, {})


def cells(module: ModuleType) -> dict[Cell, list[Cell]]:
    """`{cell: the nets of which it is the mean}`: every net, and the paper's means."""
    regions = list(module.REGIONS)
    columns = columns_of(module)[:-1]
    of_one_sex = [(form, sex) for form, sex in columns if sex != 'both']
    found = {}
    for column in columns:
        for region in regions:
            found[*column, region] = [(*column, region)]
    for column in columns:
        found[*column, ALL] = [(*column, region) for region in regions]
    for region in regions:
        found[ALL, ALL, region] = [(*column, region) for column in of_one_sex]
    found[ALL, ALL, ALL] = [(*column, region) for column in of_one_sex for region in regions]
    return found


def predicted(
    nets: Mapping[Cell, pathlib.Path], members: Sequence[Cell]
) -> dict[str, ensemble.Table]:
    """`{split: table}`, the reported ones, of the mean of `members` (keys of `nets`)."""
    workdirs = [nets[member] for member in members]
    if len(workdirs) > 1:
        _, images, _ = ensemble.load(workdirs)
    else:
        images = ensemble.read(workdirs[0])
    return {split: images[split] for split in splits_lib.REPORTED if split in images}


def lines_of(module: ModuleType, nets: Mapping[Cell, pathlib.Path]) -> list[dict]:
    """A line of table.csv for each split and cell whose nets are all finished."""
    lines = []
    for cell, members in cells(module).items():
        if not set(members) <= set(nets):
            continue
        for split, images in predicted(nets, members).items():
            form, sex, region = cell
            line = {
                'split': split,
                'form': form,
                'sex': sex,
                'region': region,
                'paper': paper_of(module, split).get(cell),
                **_mae(ensemble.errors_of(images)),
                'members': len(members),
            }
            lines.append(line)
    return lines


def _mae(errors):
    """MAE, its 95% interval and the number of images, from errors `[N]` in months."""
    sizes = np.abs(errors)
    lower, upper = metrics.bootstrap(sizes)
    return {'ours': float(sizes.mean()), 'lower': lower, 'upper': upper, 'images': len(sizes)}


def by_stage(module: ModuleType, nets: Mapping[Cell, pathlib.Path]) -> list[dict]:
    """A line of stages.csv for each split, sex, region and stage of puberty that has images.

    The nets of one sex count for it, both forms averaged where both are finished; where it has
    none, those for both sexes do. `ALL` is the mean of all regions.
    """
    lines = []
    for male, sex in enumerate(('female', 'male')):
        for region, members in _nets_of_sex(module, nets, sex).items():
            names = '; '.join(module.cell(*cell) for cell in members)
            for split, images in predicted(nets, members).items():
                own = predictions.of_sex(images, bool(male))
                for stage in _stages(own, sex):
                    where = {'split': split, 'sex': sex, 'region': region}
                    lines.append({**where, **stage, 'members': names})
    return lines


def _nets_of_sex(module, nets, sex):
    """`{region: finished nets}`, regions without any left out; `ALL` where every region has one."""
    whose = sex if any(of == sex for _, of, _ in nets) else 'both'
    members = {}
    for region in module.REGIONS:
        own = [cell for cell in nets if cell[1:] == (whose, region)]
        if own:
            members[region] = own
    if len(members) == len(module.REGIONS):
        members[ALL] = [cell for own in members.values() for cell in own]
    return members


def _stages(images, sex) -> Iterator[dict]:
    names = metrics.puberty_stage(images['age'], images['male'])
    errors = ensemble.errors_of(images)
    bounds = metrics.STAGES[sex]
    ends = dict(zip(bounds, [*list(bounds.values())[1:], None]))
    for stage in STAGES:
        own = errors[names == stage]
        if len(own):
            months = {'from_months': bounds[stage], 'to_months': ends[stage]}
            yield {'stage': stage, **months, **_mae(own)}


def write(
    swept: sweep.Sweep, output: pathlib.Path, seed: int = 0, *, overwrite: bool = False
) -> list[dict]:
    """Writes tables and figures into `output`; returns the lines of table.csv.

    Raises UserError where no row is finished, where nets cannot be averaged (`ensemble.combine`),
    or where `output` holds such tables and they may not be overwritten.
    """
    module = swept.module
    output = pathlib.Path(output)
    if not hasattr(module, 'PAPER') or not hasattr(module, 'cell'):
        raise ConfigError(f'{swept.spec}: no grid of regional nets; give configs/regions.py')
    cli.refuse_results(output, *_TABLES, overwrite=overwrite)
    nets, missing = finished(swept, seed)
    if not nets:
        raise UserError(
            f'{swept.workdir}: no row of {swept.spec} is finished with seed {seed}; train them '
            f'first: python -m boneage_jax.sweep --config={swept.spec} --workdir={swept.workdir}'
        )
    lines = lines_of(module, nets)
    stages = by_stage(module, nets)
    output.mkdir(parents=True, exist_ok=True)
    files.write_rows(output / 'table.csv', COLUMNS, lines, exact=('paper',))
    files.write_rows(output / 'stages.csv', STAGE_COLUMNS, stages)

    text = [f'# {swept.spec}, seed {seed}', '']
    for split in dict.fromkeys(line['split'] for line in lines):
        shown = {}
        for line in lines:
            if line['split'] == split:
                shown[line['form'], line['sex'], line['region']] = line
        text += [f'## {split}', '', *_markdown(module, split, shown), '']
        _draw(module, split, shown, stages, output)
        _correlate(module, nets, split, output)
    text += _about(swept.run(swept.rows[0], seed).config.data, missing)
    files.write_atomic(output / 'table.md', '\n'.join(text) + '\n')
    log.info('\n'.join(text) + f'\n\nTables and figures: {output}')
    return lines


def _about(data, missing):
    notes = [
        "- MAE in months (95% bootstrap interval over images) [the paper's: beside holdout of its "
        '1,000 validation images, beside test of the 200 test images]; "all": unweighted means, by '
        'region over the nets of one sex in both forms, at the end over all of these.',
        f"- Data: {table.describe(data)} (the first row's); validation selected the checkpoints "
        'and is not shown.',
    ]
    if missing:
        notes.append(f'- Not finished, its cells are empty: {"; ".join(missing)}.')
    return notes


def _draw(module, split, shown, stages, output):
    columns = columns_of(module)
    paper = paper_of(module, split)
    grid_figures.bars(split, shown, columns, paper, output / f'grid_{split}.png')
    own = [line for line in stages if line['split'] == split]
    grid_figures.stages(split, own, output / f'stages_{split}.png')


def _markdown(module, split, shown):
    columns = columns_of(module)
    paper = paper_of(module, split)
    header = ['region']
    for form, sex in columns:
        header.append(ALL if form == ALL else f'{form} {sex}')
    rows = [header, ['---'] * len(header)]
    for region in (*module.REGIONS, ALL):
        row = [region]
        for column in columns:
            cell = (*column, region)
            row.append(_cell(shown.get(cell), paper.get(cell)))
        rows.append(row)
    return [f'| {" | ".join(row)} |' for row in rows]


def _cell(line, paper):
    text = '–'
    if line is not None:
        text = f'{line["ours"]:.2f} ({line["lower"]:.2f} to {line["upper"]:.2f})'
    return text if paper is None else f'{text} [{paper:.2f}]'


def _correlate(module, nets, split, output):
    members = {}
    for cell, workdir in nets.items():
        images = ensemble.read(workdir)
        if split in images:
            members[module.cell(*cell)] = images
    if len(members) < 2:
        return
    matrix = ensemble.error_correlation(members, split)
    if matrix is not None:
        ensemble.write_correlation(matrix, list(members), split, output)
