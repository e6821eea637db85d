"""An ONNX graph, written node by node: constants once, turns of dimensions only where they remain.

ONNX has channels before rows. A convolution of ours is turned there and back, and what is done to
each number alone is done before it is turned back, so that two convolutions in a row meet directly.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 9  # onnxruntime from 1.17 on reads it
_HALVED = 64  # numbers from which on an array is kept as float16 where that is exact


class Graph:
    """Nodes and constants, one behind the other.

    `node(operation, inputs, **attributes)` adds one and gives its name; an input is the name of
    another or an array. `halve` keeps float32 constants as float16 where that loses nothing.
    """

    def __init__(self, *, halve: bool = False):
        self.nodes = []
        self.initializers = []
        self._halve = halve
        self._names = {}
        self._turned = {}  # name -> (the name of what it was turned from, how)
        self._expanded = {}  # name -> (the name of what was expanded, its shape)

    def node(self, operation: str, inputs: Sequence, **attributes) -> str:
        name = self._new(operation.lower())
        self._append(operation, inputs, name, attributes)
        return name

    def transpose(self, value, order: Sequence[int]):
        """A value with its dimensions in another order; no node where it was just turned so."""
        order = list(order)
        if not isinstance(value, str):
            return np.transpose(value, order)
        source, before = self._turned.get(value, (value, list(range(len(order)))))
        order = [before[axis] for axis in order]
        if order == sorted(order):
            return source
        name = self.node('Transpose', [source], perm=order)
        self._turned[name] = (source, order)
        return name

    def elementwise(self, operation: str, values: Sequence):
        """An operation on each number alone, done before its operands were turned, where they were.

        Constants have as many dimensions as the other operands, or none.
        """
        orders = []
        for value in values:
            if isinstance(value, str):
                orders.append(self._turned.get(value, (value, None))[1])
        if None in orders or any(order != orders[0] for order in orders):
            return self.node(operation, values)
        back = np.argsort(orders[0]).tolist()
        sources = []
        for value in values:
            if isinstance(value, str):
                sources.append(self._turned[value][0])
            else:
                sources.append(value if value.ndim == 0 else np.transpose(value, back))
        return self.transpose(self.node(operation, sources), orders[0])

    def expand(self, value, shape: Sequence[int], wanted: Sequence[int]) -> str:
        """A value of `shape` at the shape `wanted`, of as many dimensions."""
        name = self.node('Expand', [value, np.array(wanted, np.int64)])
        self._expanded[name] = (value, tuple(shape))
        return name

    def unexpanded(self, values: Sequence, shapes: Sequence, shape: Sequence[int]) -> list:
        """Operands of an operation on each number, as small as the shape of its result allows.

        Args:
            values: the operands.
            shapes: theirs.
            shape: of the result.
        """
        small = []
        found = []
        for value, own in zip(values, shapes, strict=True):
            known = (value, tuple(own))
            if isinstance(value, str):
                known = self._expanded.get(value, known)
            small.append(known[0])
            found.append(known[1])
        return small if np.broadcast_shapes(*found) == tuple(shape) else list(values)

    def output(self, value, name: str) -> None:
        """Gives a value the name of an output of the graph."""
        self._append('Identity', [value], name, {})

    def constant(self, array) -> str:
        """The name of an array; equal ones are kept once."""
        array = np.asarray(array, order='C')  # ascontiguousarray would add a dimension to a scalar
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._names:
            self._names[key] = self._added(array)
        return self._names[key]

    def _added(self, array):
        name = self._new('constant')
        if self._halve and array.dtype == np.float32 and array.size >= _HALVED:
            with np.errstate(over='ignore'):
                half = array.astype(np.float16)
            if np.array_equal(half.astype(np.float32), array):
                self.initializers.append(numpy_helper.from_array(half, name))
                return self.node('Cast', [name], to=onnx.TensorProto.FLOAT)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def _append(self, operation, inputs, name, attributes):
        names = []
        for value in inputs:
            names.append(value if isinstance(value, str) else self.constant(value))
        self.nodes.append(helper.make_node(operation, names, [name], name=name, **attributes))

    def _new(self, stem):
        return f'{stem}_{len(self.nodes) + len(self.initializers)}'

    def _used(self, outputs):
        """The nodes and constants that lead to `outputs`."""
        needed = set(outputs)
        nodes = []
        for node in reversed(self.nodes):
            if node.output[0] in needed:
                nodes.append(node)
                needed.update(node.input)
        return nodes[::-1], [each for each in self.initializers if each.name in needed]

    def model(self, inputs: Sequence, outputs: Sequence, metadata: dict[str, str]):
        """The whole as an onnx.ModelProto, checked.

        Args:
            inputs: `(name, dtype, shape)` of each; a side in words may be of any length.
            outputs: likewise.
            metadata: texts by key.
        """
        nodes, initializers = self._used([name for name, *_ in outputs])
        graph = helper.make_graph(
            nodes,
            'boneage_jax',
            [_value(*each) for each in inputs],
            [_value(*each) for each in outputs],
            initializers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid('', OPSET)],
            ir_version=IR_VERSION,
            producer_name='boneage_jax',
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def _value(name, dtype, shape):
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
    )
