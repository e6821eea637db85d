"""Files are written whole or not at all; links, pipes and a user's own files stay what they are."""

import os
import pathlib
import subprocess
import sys
import threading

import pytest

from boneage_jax.runtime import files

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / 'a.csv'
    path.write_text('old')
    with pytest.raises(KeyError), files.replacing(path) as temporary:
        temporary.write_text('half')
        raise KeyError
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_another_file_is_not_taken_for_a_temporary_one(tmp_path):
    mine = tmp_path / 'a.csv.tmp'
    mine.write_text('mine')
    files.write_atomic(tmp_path / 'a.csv', 'new')
    assert mine.read_text() == 'mine' and (tmp_path / 'a.csv').read_text() == 'new'
    assert len(list(tmp_path.iterdir())) == 2


def test_a_link_stays_one_and_rights_stay(tmp_path):
    path = tmp_path / 'disk' / 'a.csv'
    path.parent.mkdir()
    path.write_text('old')
    path.chmod(0o640)
    link = tmp_path / 'a.csv'
    link.symlink_to(path)
    files.write_atomic(link, 'new')
    assert link.is_symlink() and path.read_text() == 'new' and path.stat().st_mode & 0o777 == 0o640
    dangling = tmp_path / 'b.csv'
    dangling.symlink_to(path.with_name('b.csv'))
    files.write_atomic(dangling, 'new')
    assert dangling.is_symlink() and path.with_name('b.csv').read_text() == 'new'


def test_a_pipe_is_written_into(tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    files.write_atomic(pipe, 'through it')
    reader.join(20)
    assert read == ['through it'] and pipe.is_fifo()
    assert files.is_special(pipe) and files.is_special('/dev/null')
    assert not files.is_special(tmp_path) and not files.is_special(tmp_path / 'none')


@pytest.mark.parametrize('redirected', [False, True])
def test_standard_output_is_written_into(redirected, tmp_path):
    code = (
        'from boneage_jax.runtime import files; print("before"); '
        'files.write_atomic("/dev/stdout", "text\\n"); print("after")'
    )
    with (tmp_path / 'out').open('w') as file:
        done = subprocess.run(
            [sys.executable, '-c', code],
            cwd=ROOT,
            stdout=file if redirected else subprocess.PIPE,
            text=True,
            check=True,
        )
    said = (tmp_path / 'out').read_text() if redirected else done.stdout
    assert said == 'before\ntext\nafter\n'
    assert os.path.islink('/dev/stdout')


def test_names_that_are_no_text_are_written_all_the_same(tmp_path):
    files.write_table(tmp_path / 'a.csv', ('id',), [(os.fsdecode(b'h\xe4nd'),)])
    assert (tmp_path / 'a.csv').read_bytes() == b'id\nh\\udce4nd\n'


def test_the_cache_may_be_below_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('BONEAGE_CACHE', '~/cache')
    assert files.cache_folder() == tmp_path / 'cache'
