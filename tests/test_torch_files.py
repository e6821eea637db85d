"""PyTorch's files without PyTorch: both formats, and files that want more than to be read."""

import os
import pathlib
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import torch_file_writer as w

from boneage_jax.models import tensor_pickle, weight_files
from tfds_rsna.errors import UserError

VALUES = np.arange(24, dtype=np.float32)
COUNTS = np.arange(4, dtype=np.int64)


def state():
    return {
        'a': w.tensor('FloatStorage', '0', 24, (2, 3, 4)),
        'turned': w.tensor('FloatStorage', '0', 24, (4, 3), (1, 4), offset=12),
        'half': w.tensor('HalfStorage', '1', 24, (24,)),
        'brain': w.tensor('BFloat16Storage', '2', 24, (24,)),
        'n': w.tensor('LongStorage', '3', 4, (2, 2)),
        'one': w.tensor('LongStorage', '3', 4, (), offset=3),
    }


def storages():
    brain = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
    return {
        '0': (4, VALUES.tobytes()),
        '1': (2, VALUES.astype(np.float16).tobytes()),
        '2': (2, brain.tobytes()),
        '3': (8, COUNTS.tobytes()),
    }


def written(path, body, kind='zip'):
    if kind == 'old':
        named = {key: value for key, value in storages().items() if w.text(key) in body}
        return w.write_old(path, body, named)
    return w.write_zip(path, body, {key: data for key, (_, data) in storages().items()})


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'w.pth'


@pytest.mark.parametrize('kind', ['zip', 'old'])
def test_tensors_arrive(kind, path):
    plain = w.dictionary(state(), ordered=True)
    # A module's state_dict has an attribute of its own; a training script's bundle has more keys.
    with_metadata = plain + w.dictionary({'_metadata': w.dictionary({}, ordered=True)}) + b'b'
    best = b'G' + struct.pack('>d', 0.5)
    bundle = w.dictionary({'epoch': w.number(3), 'best': best, 'state_dict': plain, 'x': b'N'})
    for body in (plain, with_metadata, bundle):
        found, metadata = weight_files.read(written(path, body, kind))
        assert metadata == {} and list(found) == list(state())
        np.testing.assert_array_equal(found['a'], VALUES.reshape(2, 3, 4))
        np.testing.assert_array_equal(found['turned'], VALUES[12:].reshape(3, 4).T)
        for name in ('half', 'brain'):
            np.testing.assert_array_equal(found[name], VALUES)
        assert all(found[name].dtype == np.float32 for name in ('a', 'turned', 'half', 'brain'))
        np.testing.assert_array_equal(found['n'], COUNTS.reshape(2, 2))
        assert found['n'].dtype == np.int64 and found['one'].shape == () and found['one'] == 3
        assert all(array.flags.c_contiguous for array in found.values())


def test_big_endian_and_a_parameter(path):
    parameter = w.named('torch._utils', '_rebuild_parameter') + w.group(
        w.tensor('FloatStorage', '0', 24, (24,)), b'\x88', w.dictionary({}, ordered=True)
    )
    body = w.dictionary({'a': parameter + b'R'})
    w.write_zip(path, body, {'0': VALUES.astype('>f4').tobytes()}, byteorder='big')
    np.testing.assert_array_equal(weight_files.read(path)[0]['a'], VALUES)


def test_pairs_of_python_2(path):
    pairs = b'](' + b'](U\x01a' + state()['a'] + b'e' + b'e'
    body = w.named('collections', 'OrderedDict') + w.group(pairs) + b'R'
    found, _ = weight_files.read(written(path, body, 'old'))
    np.testing.assert_array_equal(found['a'].ravel(), VALUES)


class Call:
    """A pickle of this calls `function(*arguments)` when it is loaded."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def chain(sign):
    """getattr(__import__('os'), 'system')('touch SIGN'), each call made by the pickle."""
    module = w.named('builtins', '__import__') + w.group(w.text('os')) + b'R'
    system = w.named('builtins', 'getattr') + w.group(module, w.text('system')) + b'R'
    return system + w.group(w.text(f'touch {sign}')) + b'R'


def hostile(sign):
    """{what: (a pickle that would make the file `sign`, what of it is refused)}."""
    system = os.system.__module__  # posix
    command = f'touch {sign}'
    touch = pathlib.Path.touch.__get__(sign)
    return {
        'system': (pickle.dumps(Call(os.system, command), 2), f'{system}.system'),
        'protocol 0': (pickle.dumps(Call(os.system, command), 0), f'{system}.system'),
        'protocol 4': (pickle.dumps(Call(os.system, command), 4), f'{system}.system'),
        'eval': (
            pickle.dumps(Call(eval, f'open({str(sign)!r}, "w").close()'), 4),
            'builtins.eval',
        ),
        'exec': (pickle.dumps(Call(exec, f'open({str(sign)!r}, "w").close()'), 4), 'builtins.exec'),
        'getattr': (w.pickled(chain(sign)), 'builtins.getattr'),
        'method': (pickle.dumps(Call(touch), 4), 'builtins.getattr'),
        'instance': (b'(' + w.text(command) + f'i{system}\nsystem\n.'.encode(), f'{system}.system'),
        'in a tensor': (
            w.pickled(
                w.named('torch._utils', '_rebuild_tensor_v2')
                + w.group(w.named('os', 'system') + w.group(w.text(command)) + b'R')
                + b'R'
            ),
            'os.system',
        ),
        'a class of torch': (
            w.pickled(w.named('torch.nn.modules.linear', 'Linear') + b')\x81'),
            'torch.nn.modules.linear.Linear',
        ),
        'in a dotted name': (
            w.pickled(w.text('torch') + w.text('serialization.os.system') + b'\x93'),
            'torch.serialization.os.system',
        ),
        'registry': (w.pickled(b'\x82\x01'), r"instruction b'\x82'"),
        'new object': (w.pickled(w.named('collections', 'OrderedDict') + b')\x81'), r"b'\x81'"),
        'called storage': (
            w.pickled(w.named('torch', 'FloatStorage') + w.group(w.number(10**9)) + b'R'),
            'a call of torch.FloatStorage',
        ),
    }


@pytest.mark.parametrize('what', list(hostile(pathlib.Path('x'))))
@pytest.mark.parametrize('kind', ['zip', 'old', 'magic'])
def test_what_a_pickle_would_run_is_named_and_not_run(what, kind, path, tmp_path):
    sign = tmp_path / 'ran'
    evil, said = hostile(sign)[what]
    if kind == 'zip':
        with zipfile.ZipFile(path, 'w') as file:
            file.writestr('archive/data.pkl', evil)
    elif kind == 'old':
        about = w.pickled(b'}')
        path.write_bytes(w.pickled(w.MAGIC) + w.pickled(w.number(1001)) + about + evil)
    else:
        path.write_bytes(evil)  # in the place of the format's own number
    with pytest.raises(UserError) as error:
        weight_files.read(path)
    assert str(error.value).startswith(f'{path}: holds more than arrays, which could run code')
    assert said in str(error.value) and 'nothing was run' in str(error.value)
    assert not sign.exists()


def test_the_hostile_pickles_do_harm_where_they_are_loaded(tmp_path):
    """So that the test above can fail."""
    for number, what in enumerate(('system', 'protocol 0', 'protocol 4', 'eval', 'getattr')):
        sign = tmp_path / str(number)
        pickle.loads(hostile(sign)[what][0])
        assert sign.exists(), what


def test_a_refused_name_cannot_write_on_the_terminal(path):
    written(path, w.named('os', '\x1b[2Jsystem' + 'x' * 150))
    with pytest.raises(UserError) as error:
        weight_files.read(path)
    assert '\x1b' not in str(error.value) and r'os.\x1b[2Jsystem' in str(error.value)
    written(path, w.named('os', 'x' * 10_000))
    with pytest.raises(UserError, match='its pickle has no name at byte'):
        weight_files.read(path)


HUGE = 1 << 40


@pytest.mark.parametrize(
    'body, said',
    [
        (w.tensor('FloatStorage', '0', 24, (25,)), 'outside of its storage'),
        (w.tensor('FloatStorage', '0', 24, (4, 6), offset=1), 'outside of its storage'),
        (w.tensor('FloatStorage', '0', 24, (2,), (24,)), 'outside of its storage'),
        (w.tensor('FloatStorage', '0', 24, (HUGE,), (0,)), 'outside of its storage'),
        (w.tensor('FloatStorage', '0', 24, (HUGE,) * 8), 'a side below zero|outside'),
        (w.tensor('FloatStorage', '0', 24, (2,), (-1,), offset=1), 'a side below zero'),
        (w.tensor('FloatStorage', '0', 24, (-2,)), 'a side below zero'),
        (w.tensor('FloatStorage', '0', 24, (2,), offset=-1), 'tensor without a storage'),
        (w.tensor('FloatStorage', '0', 24, (1,) * 33), 'tensor without a shape'),
        (w.tensor('FloatStorage', '0', 24, (2, 2), (1,)), 'a shape and no strides'),
        (w.tensor('FloatStorage', '0', 24, (0, HUGE)), 'has no values'),
        (w.tensor('FloatStorage', '0', HUGE, (HUGE,)), 'more than the file|end of the file'),
        (w.tensor('FloatStorage', '0', 25, (24,)), '96 bytes, expected 25|more than the file'),
        (w.tensor('FloatStorage', '9', 4, (4,)), "no .*9' in it|no tensor of it has"),
        (w.tensor('FloatStorage', '../../data.pkl', 4, (4,)), 'no .* in it|no tensor of it has'),
        (w.tensor('OrderedDict', '0', 4, (4,)), 'could run code: torch.OrderedDict'),
        (w.storage('FloatStorage', '0', -1), 'storage without type'),
    ],
)
@pytest.mark.parametrize('kind', ['zip', 'old'])
def test_sizes_and_places_are_checked_before_anything_is_made(body, said, kind, path):
    written(path, w.dictionary({'a': body}), kind)
    with pytest.raises(UserError, match=f'{path}: .*({said})'):
        weight_files.read(path)


def test_a_file_makes_no_more_than_it_holds(path):
    """A thousand tensors of one storage; one storage under two types; a compressed zip."""
    many = {f't{i}': w.tensor('FloatStorage', '0', 24, (24,)) for i in range(1000)}
    with pytest.raises(UserError, match='repeat their values more than 4 times'):
        weight_files.read(written(path, w.dictionary(many)))
    two = {
        'a': w.tensor('FloatStorage', '0', 24, (24,)),
        'b': w.tensor('DoubleStorage', '0', 24, (24,)),
    }
    for kind, said in (('zip', 'bytes, expected 24 values of 8|more than'), ('old', 'two types')):
        with pytest.raises(UserError, match=said):
            weight_files.read(written(path, w.dictionary(two), kind))
    zeros = bytes(4_000_000)
    body = w.dictionary({'a': w.tensor('FloatStorage', '0', 1_000_000, (1_000_000,))})
    w.write_zip(path, body, {'0': zeros}, compress=True)
    with pytest.raises(UserError, match='compressed or encrypted'):
        weight_files.read(path)


@pytest.mark.parametrize(
    'content, said',
    [
        (b'X\xff\xff\xff\xffabc', 'cut short at byte'),  # text of 4 GB
        (b'K\x01r\xff\xff\xff\x7f', None),  # a memo of 2 thousand million places
        (b')' + b'\x85' * 50_000, None),  # tuples in tuples
        (b'](' * 100_000 + b'e' * 100_000, None),
        (b'}' + b')' + b'\x85' * 50_000 + b'K\x01s', 'a dict with a key of type tuple'),
        (b'}' + b'q\x00' + b'X\x01\x00\x00\x00a' + b'h\x00' + b's', None),  # a dict in itself
        (b'\x8a\xff' + b'\xff' * 255, None),  # a number of 255 bytes
        (b't', 'damaged'),
        (b'', 'damaged'),
        (b'h\x07', 'damaged'),
        (b'K\x01K\x02a', 'damaged'),
        (b'}(K\x01u', 'damaged'),
        (b'X\x02\x00\x00\x00\xff\xff', 'damaged'),
        (b'K\x01)R', 'damaged'),
        (b'\x80\x09', "pickle's protocol 9"),
        (b'K\x01Q', 'damaged'),
    ],
)
def test_pickles_that_only_break_what_reads_them(content, said, path):
    """None: it is read, and is no state_dict. Nothing recurses, allocates or hangs."""
    began = time.monotonic()
    written(path, content)
    if said is None:
        said = 'expected a state_dict'
    with pytest.raises(UserError, match=f'{path}: .*{said}'):
        weight_files.read(path)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize('kind', ['zip', 'old'])
def test_files_cut_short(kind, path):
    whole = written(path, w.dictionary(state(), ordered=True), kind).read_bytes()
    refused = 0
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=f'{path}: '):
            weight_files.read(path)
        refused += 1
    assert refused > 100


def test_single_bytes_changed_do_nothing_worse_than_a_refusal(path):
    """1,500 files with one wrong byte: read or refused, never another error."""
    whole = written(path, w.dictionary(state(), ordered=True), 'old').read_bytes()
    draw = np.random.default_rng(0)
    outcomes = {'read': 0, 'refused': 0}
    for _ in range(1500):
        changed = bytearray(whole)
        changed[draw.integers(len(whole))] = draw.integers(256)
        path.write_bytes(changed)
        try:
            weight_files.read(path)
            outcomes['read'] += 1
        except UserError:
            outcomes['refused'] += 1
    assert min(outcomes.values()) > 50


def test_what_is_no_state_dict(path):
    for body, said in (
        (b']', 'found a list'),
        (w.dictionary({'a': w.number(1)}), 'found a dict of something else'),
        (w.dictionary({}), 'found a dict of something else'),
        (w.dictionary({'a': w.dictionary(state())}), 'found a dict of something else'),
    ):
        with pytest.raises(UserError, match=f'{path}: expected a state_dict.*{said}'):
            weight_files.read(written(path, body))
    for content in (b'x' * 100, b''):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f'{path}: (holds more|cut short or damaged)'):
            weight_files.read(path)
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('a/data.pkl', b'')
        file.writestr('b/data.pkl', b'')
    with pytest.raises(UserError, match='a zip with 2 data.pkl, expected one'):
        weight_files.read(path)


def test_every_name_it_knows_is_harmless():
    assert all(
        name.startswith('torch.') and (name.endswith('Storage') or '._rebuild_' in name)
        for name in tensor_pickle.GLOBALS - {'collections.OrderedDict'}
    )
