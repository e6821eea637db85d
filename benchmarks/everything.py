"""Every benchmark, each in a process of its own, into one JSON and one markdown table.

    python -m benchmarks.everything --output runs/benchmarks/everything.json
    python -m benchmarks.everything --keep h200        # also docs/benchmarks/h200.md and h200.json

Leave the machine alone meanwhile (about 25 minutes on two cores). Each also leaves its own JSON
beside; for other sizes run the single ones. The joined files are written after every part: one that
fails or is stopped (Ctrl-C) costs the others nothing.
"""

import json
import os
import pathlib
import subprocess
import sys

from benchmarks import machine, report

NAMES = (
    'reading',
    'preparing',
    'one_device',
    'train_step',
    'convolutions',
    'backbones',
    'prsnet',
    'regions',
    'hand_mask',
    'start_up',
)


def main(argv=None):
    parser = report.parser('everything', __doc__)
    parser.add_argument('--only', nargs='+', choices=NAMES, default=list(NAMES))
    parser.add_argument(
        '--images',
        type=pathlib.Path,
        help="preparing's images (default: $BONEAGE_DATA/rsna_native)",
    )
    parser.add_argument(
        '--keep', metavar='NAME', help='the results also as docs/benchmarks/NAME.md and NAME.json'
    )
    parser.add_argument(
        '--quick', action='store_true', help='tiny sizes, to see that everything runs'
    )
    arguments = parser.parse_args(argv)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    results, failed = {}, []
    facts = machine.facts()
    for name in arguments.only:
        if name == 'preparing' and not (arguments.images or os.environ.get('BONEAGE_DATA')):
            failed.append(f'{name}: no images; give --images')
            continue
        part = arguments.output.with_name(f'{name}.json')
        command = [sys.executable, '-m', f'benchmarks.{name}', '--output', str(part.resolve())]
        command += (
            ['--images', str(arguments.images.resolve())]
            if name == 'preparing' and arguments.images
            else []
        )
        command += QUICK[name] if arguments.quick else ['--repeats', str(arguments.repeats)]
        command += (
            ['--torch_compile']
            if name == 'train_step' and facts['gpu'] and not arguments.quick
            else []
        )
        print(f'\n{name}', flush=True)
        try:
            code = subprocess.run(command, cwd=machine.ROOT).returncode
        except KeyboardInterrupt:
            failed.append(f'{", ".join(arguments.only[arguments.only.index(name) :])}: stopped')
            break
        if code:
            failed.append(f'{name}: failed, see above')
        else:
            results[name] = json.loads(part.read_text())
        _write(arguments, facts, results, failed)
    for path in _write(arguments, facts, results, failed):
        print(path)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _write(arguments, facts, results, failed):
    """The joined files, of what is there by now; their paths."""
    markdown = arguments.output.with_suffix('.md')
    report.write(
        arguments.output,
        json.dumps({'machine': facts, 'failed': failed, 'results': results}, indent=1) + '\n',
    )
    report.write(markdown, _markdown(facts, results, failed))
    kept = [
        machine.ROOT / 'docs' / 'benchmarks' / f'{arguments.keep}{path.suffix}'
        for path in (arguments.output, markdown)
        if arguments.keep
    ]
    for path, copy in zip((arguments.output, markdown), kept):
        report.write(copy, path.read_text())
    return [arguments.output, markdown, *kept]


QUICK = {
    'reading': ['--records', '40', '--side', '64', '--reads', '400', '--repeats', '1'],
    'preparing': ['--count', '32', '--side', '64', '--repeats', '1'],
    'train_step': ['--networks', 'resnet18:4:1', '--sizes', '32:2', '--repeats', '1'],
    'one_device': [
        '--backbone',
        'resnet18',
        '--width',
        '4',
        '--depth',
        '1',
        '--side',
        '64',
        '--batch',
        '2',
        '--part_size',
        '32',
        '--many',
        '2',
        '--seconds',
        '0',
        '--matrix',
        '64',
        '--repeats',
        '1',
    ],
    'convolutions': ['--network', 'resnet18:4', '--size', '32:2', '--repeats', '1'],
    'backbones': [
        '--networks',
        'vgg16',
        '--width',
        '8',
        '--side',
        '32',
        '--batch',
        '2',
        '--seconds',
        '0',
        '--repeats',
        '1',
    ],
    'prsnet': [
        '--width',
        '8',
        '--depth',
        '1',
        '--side',
        '64',
        '--batch',
        '2',
        '--part_sizes',
        '32',
        '--seconds',
        '0',
        '--repeats',
        '1',
    ],
    'regions': [
        '--size',
        '40',
        '32',
        '--widths',
        '4',
        '4',
        '--dense',
        '8',
        '--batch',
        '2',
        '--seconds',
        '0',
        '--repeats',
        '1',
    ],
    'hand_mask': ['--repeats', '1'],
    'start_up': ['--configs', 'configs/prsnet.py:tiny,row=baseline', '--repeats', '1'],
}


def _markdown(facts, results, failed):
    versions = ', '.join(
        f'{name} {version}' for name, version in facts['versions'].items() if version
    )
    machine_text = f'{facts["processor"]}, {facts["cores"]} cores, {facts["memory_gib"]} GiB'
    if facts['gpu']:
        machine_text += f'; {facts["gpu"]}'
    text = [
        f'{machine_text}; Python {facts["python"]}, {versions}; commit {facts["commit"]}, '
        f'{facts["time"]}, load average at the start {facts["load_average"]}.'
    ]
    for name, result in results.items():
        text.append(f'## {name}\n\n{report.table(result["rows"])}')
    return '\n\n'.join(text + [f'Not measured: {line}' for line in failed]) + '\n'


if __name__ == '__main__':
    sys.exit(main())
