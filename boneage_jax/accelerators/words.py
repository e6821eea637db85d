"""The figures of `fits` in words."""


def report(figures: dict) -> str:
    """What `fits.fits` gives, as text for a terminal."""
    target = figures['target']
    run = figures['run']
    versions = ', '.join(f'{name} {version}' for name, version in figures['versions'].items())
    side = 'x'.join(map(str, run['size']))
    lines = [
        f'{run["config"]} ({run["model"]}, {side} pixels, {run["dtype"]}) for {target["title"]}',
        figures['note'],
        f'Compiled with {versions}; figures of the device: {target["source"]}.',
        _resident(run),
    ]
    for name, program in figures['programs'].items():
        lines += ['', *_program(name, program, target, run)]
    if figures['largest_batch']:
        lines += ['', _largest(figures['largest_batch'], target)]
    return '\n'.join(lines)


def _resident(run):
    size = gigabytes(run['resident_bytes'])
    if run['placement'] == 'device':
        return f'The {run["images"]:,} training images stay on each device: {size}.'
    return (
        f'The {run["images"]:,} training images come from the host; data.placement=device would '
        f'keep them on each device: {size}.'
    )


def _program(name, program, target, run):
    memory = program['memory']
    count = program['images']
    images = f'{count} images' if count > 1 else '1 image'
    title = f'{name}, {images}' if name != 'one image' else 'one image, predicted'
    lines = [title]
    total = f'{gigabytes(memory["total"])} of {gigabytes(target["memory"])}'
    if memory['refused']:
        known = '' if memory['refused'] >= 10**15 else f': it would need {total}'
        return [*lines, f'  fits: no; the compiler refuses it{known}']
    parts = []
    for part in ('state', 'resident', 'batch', 'temporaries', 'results', 'code'):
        if memory[part]:
            parts.append(f'{part} {gigabytes(memory[part])}')
    lines += [
        f'  fits: {program["fits"]}; memory {total} a device: {", ".join(parts)}',
        f'  operations: {_operations(program["operations"])}, on all devices',
        f'  moved: {gigabytes(program["moved_bytes"])} a device'
        f'{_compilers_bytes(program["compiler"])}{_cycles(program["estimated_cycles"])}',
        f'  computed by: {_products(program["products"])}',
        f'  in float32: {_listed(program["float32_maps"], "maps")}',
        f'  copies and changes of layout: {_listed(program["copies"], "copies")}',
        f'  scatters: {program["scatters"]}, gathers: {program["gathers"]}',
        f'  sent: {_collectives(program)}',
        f'  least time: {_times(program)}',
    ]
    if name == 'training step' and program['images_per_second']:
        hours = run['images'] * run['epochs'] / program['images_per_second'] / 3600
        lines.append(
            f'  {run["epochs"]} epochs of {run["images"]:,} images: at least {hours:.2g} hours'
        )
    for line in program['forbidden']:
        lines.append(f'  not allowed: {line}')
    return lines


def gigabytes(count: float) -> str:
    """1234567890 -> '1.23 GB', 12345678 -> '12.3 MB'."""
    for unit, size in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if count >= size:
            return f'{count / size:.3g} {unit}'
    return f'{count:.0f} B'


def _operations(operations):
    parts = [f'{count / 1e9:.4g} GFLOP in {dtype}' for dtype, count in operations.items()]
    return ', '.join(parts) or 'none'


def _compilers_bytes(compiler):
    if 'bytes accessed' not in compiler:
        return ''
    return f' ({gigabytes(compiler["bytes accessed"])} accessed, as the compiler counts)'


def _cycles(cycles):
    return f'; {cycles / 1e6:.3g} million estimated cycles, gathers left out' if cycles else ''


def _products(products):
    names = {'convolution': 'convolutions', 'product': 'matrix products'}
    parts = []
    for product in products:
        kind = names[product['kind']]
        parts.append(f'{product["count"]} {kind} in {product["dtype"]} ({product["library"]})')
    return ', '.join(parts) or 'nothing'


def _listed(found, what):
    if not found['count']:
        return 'none'
    largest = found['largest'][0]
    source = largest['source'] or largest['name']
    return (
        f'{found["count"]} {what}, {gigabytes(found["bytes"])}; the largest '
        f'{gigabytes(largest["bytes"])}: {source}'
    )


def _collectives(program):
    if not program['collectives']:
        return 'nothing'
    parts = []
    for kind, found in program['collectives'].items():
        parts.append(f'{found["count"]} {kind} of {gigabytes(found["bytes"])}')
    return f'{gigabytes(program["sent_bytes"])} a device; {", ".join(parts)}'


def _times(program):
    parts = []
    for name, seconds in program['seconds'].items():
        parts.append(f'{name} {1000 * seconds:.3g} ms')
    rate = program['images_per_second']
    speed = f', at most {rate:,.0f} images/s' if rate else ''
    return f'{", ".join(parts)}: bound by {program["bound"]}{speed}'


def _largest(largest, target):
    compiled = ', '.join(
        f'{size}: {gigabytes(total)}' if total < 10**15 else f'{size}: too large'
        for size, total in largest['compiled'].items()
    )
    if not largest['size']:
        return f'largest batch: none of those compiled fits ({compiled})'
    return (
        f'largest batch of the training step in {gigabytes(target["usable"])}: '
        f'{largest["size"]} (compiled {compiled})'
    )
