"""A network in a file that runs without this package: StableHLO for JAX, ONNX for onnxruntime."""

import json
import pathlib

import jax
import numpy as np
from jax import export as jax_export

from boneage_jax.inference import native as native_lib
from boneage_jax.runs import exported
from boneage_jax.runtime import files, log
from tfds_rsna.errors import UserError

PLATFORMS = ('cpu', 'cuda', 'tpu')
SUFFIXES = {'stablehlo': '.stablehlo', 'onnx': '.onnx'}
# Of an exported file's metadata: what is true of the network wherever it is.
_KEPT = (
    'kind',
    'config',
    'task',
    'step',
    'figures',
    'intervals',
    'about',
    'commit',
    'version',
    'dtype',
    'train_images',
    'train_sha256',
)
_INPUTS = (('image', 'uint8', ('height', 'width')), ('male', 'bool', ()))


def check(output: pathlib.Path, format_name: str) -> None:
    """Refuses (UserError) a name of another format, and one that is taken or in no folder."""
    suffix = SUFFIXES[format_name]
    if output.suffix != suffix:
        raise UserError(f'--output={output}: expected a name that ends in {suffix}')
    for path in (output, _beside(output)):
        if path.exists():
            raise UserError(f'--output={path}: exists already; delete it or give another name')
    if not output.parent.is_dir():
        raise UserError(f'--output={output}: no such folder')


def _beside(output):
    return output.with_name(f'{output.name}.json')


def write(
    place: pathlib.Path, output: pathlib.Path, format_name: str, max_megabytes: float = 0.0
) -> None:
    """Writes the network of an exported file in another format.

    Args:
        place: a file of `boneage export`, NAME.safetensors.
        output: the file to write; beside StableHLO's one with `.json` behind its name.
        format_name: a key of SUFFIXES.
        max_megabytes: how large the file may be; 0 = any size.

    Raises:
        UserError: see `native.Native`; ONNX is not installed, an operation has no equal there, or
            the file would be too large.
    """
    network = native_lib.Native(place)
    metadata = _metadata(place, network)
    content = _onnx(network, metadata) if format_name == 'onnx' else _stablehlo(network)
    megabytes = len(content) / 1e6
    if 0 < max_megabytes < megabytes:
        raise UserError(
            f'--output={output}: would be {megabytes:,.2f} MB, more than the {max_megabytes:,.2f} '
            'MB of --max_megabytes'
        )
    with files.replacing(output) as temporary:
        temporary.write_bytes(content)
    if format_name == 'stablehlo':
        files.write_atomic(_beside(output), json.dumps(metadata, indent=1) + '\n')
    log.info(f'{output}: {format_name}, {megabytes:,.2f} MB.')


def _metadata(place, network):
    """Texts by key: those of the file, and what goes in and comes out."""
    given = exported.read(place).metadata
    data = network.predictor.config.data
    inputs = {
        'image': 'uint8 [height, width]: grey, bones bright, fingers up, at its native size',
        'male': 'bool: true for a boy, false for a girl',
    }
    outputs = {
        'months': 'float32: the bone age',
        'lower': 'float32: months, of the interval',
        'upper': 'float32: months, of the interval',
        'seen': 'uint8: the image at the size of the network',
    }
    preprocessing = {
        'size': list(data.size),
        'resize': data.resize,
        'mirrored_too': bool(network.predictor.config.flip_tta),
        'turned_too': float(network.predictor.config.turn_tta),
        'in_the_file': 'resampling, standardisation, network, mean over its views, months',
        'not_in_the_file': 'decoding, and what `predict` judges of an image before its age: '
        'whether it shows a hand, its polarity and way up',
    }
    found = {key: given[key] for key in _KEPT if key in given}
    found['format'] = 'boneage_jax'
    found['inputs'] = json.dumps(inputs)
    found['outputs'] = json.dumps({name: outputs[name] for name in network.outputs})
    found['preprocessing'] = json.dumps(preprocessing)
    return found


def _stablehlo(network):
    """A `jax.export.Exported` as bytes; heights and widths are free."""
    height, width = jax_export.symbolic_shape('height, width')
    shapes = (
        jax.ShapeDtypeStruct((height, width), np.uint8),
        jax.ShapeDtypeStruct((), np.bool_),
    )

    def ages(image, male):
        return dict(zip(network.outputs, network(image, male), strict=True))

    return jax_export.export(jax.jit(ages), platforms=PLATFORMS)(*shapes).serialize()


def _onnx(network, metadata):
    try:
        from boneage_jax.inference import onnx_graph, onnx_operations
    except ImportError as error:
        raise UserError(
            f"--format=onnx: onnx is not installed ({error}); pip install 'boneage_jax[onnx]', or "
            'BONEAGE_EXTRAS=onnx in front of launch/run.sh'
        ) from error
    graph = onnx_graph.Graph(halve=metadata.get('dtype') == 'float16')
    shape = graph.node('Shape', ['image'])
    height, width = (graph.node('Gather', [shape, np.int64(axis)]) for axis in (0, 1))
    side = ('int64', ())
    factors = onnx_operations.convert(
        graph, native_lib.traced(network.factors, side, side), [height, width]
    )
    sums = _block_sums(graph, shape, factors, network.sums_shape)
    closed = native_lib.traced(
        network.finish, ('float32', network.sums_shape), side, side, ('bool', ())
    )
    results = onnx_operations.convert(graph, closed, [sums, height, width, 'male'])
    outputs = []
    for name, result, variable in zip(network.outputs, results, closed.out_avals, strict=True):
        graph.output(result, name)
        outputs.append((name, variable.dtype, variable.shape))
    return graph.model(_INPUTS, outputs, metadata).SerializeToString()


def _block_sums(graph, shape, factors, sums_shape):
    """`native_resize.block_sums` in nodes: its shapes depend on the image's."""
    line = np.array([1], np.int64)
    factor = graph.node('Concat', [graph.node('Reshape', [each, line]) for each in factors], axis=0)
    rounded = graph.node('Sub', [graph.node('Add', [shape, factor]), np.int64(1)])
    blocks = graph.node('Div', [rounded, factor])
    none = np.zeros(2, np.int64)
    missing = graph.node('Sub', [graph.node('Mul', [blocks, factor]), shape])
    values = graph.node('Cast', ['image'], to=1)
    values = graph.node('Pad', [values, graph.node('Concat', [none, missing], axis=0)])
    # One side after the other: onnxruntime is slow in adding up two dimensions apart.
    minus = np.array([-1], np.int64)
    rows, down, columns, across = (
        graph.node('Slice', [pair, np.array([axis]), np.array([axis + 1])])
        for pair, axis in ((blocks, 0), (factor, 0), (blocks, 1), (factor, 1))
    )
    shapes = (
        graph.node('Concat', [rows, down, minus], axis=0),
        graph.node('Concat', [rows, columns, across], axis=0),
    )
    for three, axis in zip(shapes, (1, 2)):
        values = graph.node('Reshape', [values, three])
        values = graph.node('ReduceSum', [values, np.array([axis], np.int64)], keepdims=0)
    missing = graph.node('Sub', [np.array(sums_shape, np.int64), blocks])
    values = graph.node('Pad', [values, graph.node('Concat', [none, missing], axis=0)])
    return graph.node('Reshape', [values, np.array(sums_shape, np.int64)])
