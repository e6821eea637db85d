"""Zips and folders as people have them: names, damage, methods, depth; nothing is lost unsaid."""

import io
import os
import pathlib
import re
import zipfile

import pytest

from tfds_rsna.io.archive import MAX_DEPTH, Archive, is_file
from tfds_rsna.problems import DataError

ALL = re.compile('')


def zipped(files, *, method=zipfile.ZIP_DEFLATED, flags=None):
    """The bytes of a zip of {member name as it is: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo('x')
            info.filename = info.orig_filename = name
            info.compress_type = method
            archive.writestr(info, data)
    return buffer.getvalue()


def with_method(data, number):
    """The zip with another compression method in every header."""
    data = bytearray(data)
    for magic, offset in ((b'PK\3\4', 8), (b'PK\1\2', 10)):
        for found in re.finditer(re.escape(magic), bytes(data)):
            at = found.start() + offset
            data[at : at + 2] = number.to_bytes(2, 'little')
    return bytes(data)


def spoiled(data, member):
    """The zip with a deflated member whose stream is none."""
    at = data.index(member.encode()) + len(member)
    return data[:at] + b'\xff' * 8 + data[at + 8 :]


def listed(folder, *, tolerant=True):
    """({path: bytes or the message}, failures, left out) of a folder."""
    found = {}
    with Archive(tolerant=tolerant) as archive:
        for entry in archive.entries(folder, ALL):
            try:
                found[entry.path] = entry.read()
                assert entry.read(3) == found[entry.path][:3]
            except DataError as error:
                found[entry.path] = str(error)
        return found, archive.failures, archive.left_out


WHOLE = b'an image ' * 50


def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path):
    files = {'1.png': WHOLE, '2.png': WHOLE, '3.png': WHOLE}
    (tmp_path / 'a.zip').write_bytes(spoiled(zipped(files), '2.png'))
    found, _, _ = listed(tmp_path)
    assert found['a.zip/1.png'] == found['a.zip/3.png'] == WHOLE
    assert found['a.zip/2.png'].startswith('a.zip/2.png: damaged in the zip')


def test_an_unknown_method_is_named_and_not_called_damage(tmp_path):
    inner = zipped({'1.png': WHOLE}, method=zipfile.ZIP_STORED)
    (tmp_path / 'a.zip').write_bytes(with_method(zipped({'1.png': WHOLE}), 9))
    outer = zipped({'inner.zip': b'PK' + bytes(99), 'good.png': WHOLE})
    (tmp_path / 'b.zip').write_bytes(with_method(outer, 9))
    (tmp_path / 'c.zip').write_bytes(zipped({'inner.zip': inner}))
    found, failures, _ = listed(tmp_path)
    assert 'method 9 (deflate64)' in found['a.zip/1.png']
    assert '7-Zip' in failures['b.zip/inner.zip'] and 'damaged' not in str(failures)
    assert found['c.zip/inner.zip/1.png'] == WHOLE
    with pytest.raises(DataError, match='method 9'):
        listed(tmp_path, tolerant=False)


def test_what_cannot_be_opened_stops_nothing_where_that_is_wished(tmp_path):
    (tmp_path / 'bad.zip').write_bytes(b'PK')
    locked = bytearray(zipped({'1.png': WHOLE, '2.png': WHOLE}))
    at = locked.index(b'PK\1\2') + 8
    locked[at] |= 1  # encrypted, by the directory
    (tmp_path / 'locked.zip').write_bytes(locked)
    (tmp_path / 'good.png').write_bytes(WHOLE)
    found, failures, _ = listed(tmp_path)
    assert set(found) == {'good.png', 'locked.zip/2.png'}
    assert 'not a whole zip' in failures['bad.zip']
    assert 'encrypted' in failures['locked.zip/1.png']
    with pytest.raises(DataError, match='bad.zip: not a whole zip'):
        listed(tmp_path, tolerant=False)


def test_names_are_as_their_makers_meant_them(tmp_path):
    files = {
        'films\\101.png': WHOLE,
        'films\\': b'',
        'hände/ü.png'.encode().decode('cp437'): WHOLE,
        'plain.png': WHOLE,
    }
    data = zipped(files)
    # macOS writes UTF-8 and does not say so: the flag of these members is cleared.
    raw = 'hände/ü.png'.encode().decode('cp437').encode()
    data = data.replace(raw, 'hände/ü.png'.encode().ljust(len(raw), b'_'))
    (tmp_path / 'a.zip').write_bytes(_without_utf8_flag(data))
    found, _, _ = listed(tmp_path)
    assert 'a.zip/films/101.png' in found and 'a.zip/plain.png' in found
    assert any(path.startswith('a.zip/hände/ü.png') for path in found)
    assert len(found) == 3


def _without_utf8_flag(data):
    data = bytearray(data)
    for magic, offset in ((b'PK\3\4', 7), (b'PK\1\2', 9)):
        for found in re.finditer(re.escape(magic), bytes(data)):
            data[found.start() + offset] &= ~0x08
    return bytes(data)


def test_files_of_systems_are_no_files_and_hidden_ones_are_named(tmp_path):
    (tmp_path / 'films').mkdir()
    names = ['films/._1.png', 'films/1.png', 'films/.old.png', 'films/Thumbs.db', '.DS_Store']
    for name in names:
        (tmp_path / name).write_bytes(WHOLE)
    (tmp_path / 'a.zip').write_bytes(
        zipped(dict.fromkeys([*names, '__MACOSX/films/._1.png'], WHOLE))
    )
    found, _, left_out = listed(tmp_path)
    assert set(found) == {'films/1.png', 'a.zip/films/1.png'}
    assert left_out == ['films/.old.png (hidden)', 'a.zip/films/.old.png (hidden)']


def test_a_name_that_is_no_utf8_can_be_printed(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b'h\xe4nd_1.png'), 'wb') as file:
        file.write(WHOLE)
    found, _, _ = listed(tmp_path)
    assert found == {'händ_1.png': WHOLE}


def test_deep_folders_are_found_and_too_deep_ones_named(tmp_path):
    deep = tmp_path.joinpath(*map(str, range(8)))
    deep.mkdir(parents=True)
    (deep / '1.png').write_bytes(WHOLE)
    (tmp_path / '0' / 'up').symlink_to(tmp_path)  # a circle
    found, _, left_out = listed(tmp_path)
    assert list(found) == ['0/1/2/3/4/5/6/7/1.png'] and not left_out
    deeper = deep.joinpath(*['x'] * MAX_DEPTH)
    deeper.mkdir(parents=True)
    found, _, left_out = listed(tmp_path)
    assert len(found) == 1 and len(left_out) == 1 and 'too deep' in left_out[0]


def test_zips_in_zips_end(tmp_path):
    data = zipped({'1.png': WHOLE})
    for _ in range(MAX_DEPTH + 2):
        data = zipped({'in.zip': data, 'beside.png': WHOLE})
    (tmp_path / 'a.zip').write_bytes(data)
    found, _, left_out = listed(tmp_path)
    assert all(pathlib.PurePosixPath(path).name == 'beside.png' for path in found)
    assert len(found) == MAX_DEPTH + 1 and 'too deep' in left_out[0]


def test_a_dot_and_a_second_slash_are_no_part_of_a_name(tmp_path):
    (tmp_path / 'a.zip').write_bytes(zipped({'./1.png': b'1', 'a/./2.png': b'2', 'a//3.png': b'3'}))
    with Archive() as archive:
        found = {entry.path: entry.read() for entry in archive.entries(tmp_path, ALL)}
    assert found == {'a.zip/1.png': b'1', 'a.zip/a/2.png': b'2', 'a.zip/a/3.png': b'3'}


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    for name in ('a/1.png', 'b/2.png'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b'')
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith('/b'):
            raise PermissionError(13, 'Permission denied', os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with Archive() as archive, pytest.raises(DataError, match='/b: cannot be looked into'):
        list(archive.entries(tmp_path, ALL))
    with Archive(tolerant=True) as archive:
        assert [entry.path for entry in archive.entries(tmp_path, ALL)] == ['a/1.png']
        assert 'mend its permissions' in archive.failures['b']


def test_links_that_lead_round_in_a_circle_end(tmp_path):
    (tmp_path / '1.png').write_bytes(b'')
    (tmp_path / 'loop.png').symlink_to('loop.png')
    (tmp_path / 'here').symlink_to('there')
    (tmp_path / 'there').symlink_to('here')
    (tmp_path / 'up').symlink_to('.')
    with Archive() as archive:
        found = list(archive.entries(tmp_path, ALL))
    assert [entry.path for entry in found] == ['1.png', 'here', 'loop.png', 'there']
    assert [is_file(entry, tmp_path / '1.png') for entry in found] == [True, False, False, False]
