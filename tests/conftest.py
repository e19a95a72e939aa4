"""What several tests share: the checkout, its tools, real photographs, an installed wheel."""
import importlib
import os
import shutil
import signal
import subprocess
import sys
import venv
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

# Before anything imports torch or a hub client.
os.environ['OMP_NUM_THREADS'] = '1'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('MPLBACKEND', 'agg')

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).resolve().parent.parent

# Under nohup, or behind a shell's &, these signals are ignored; tests send them to commands that they start.
for ignored, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(ignored) == signal.SIG_IGN: signal.signal(ignored, usual)


@pytest.fixture(scope='session')
def root():
    "The folder of the checkout."
    return ROOT


@pytest.fixture(scope='session')
def settings(root):
    "What settings.ini says."
    parser = ConfigParser(delimiters=['='])
    parser.read(root/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


@pytest.fixture(scope='session')
def tracked(root):
    "The files that git tracks or would track, relative to the checkout."
    if not (root/'.git').exists():
        pytest.skip('not a git checkout')
    listed = subprocess.run(['git', '-c', f'safe.directory={root}', 'ls-files', '-z', '--cached',
                             '--others', '--exclude-standard'],
                            cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted(Path(name) for name in listed.split('\0') if name and (root/name).is_file())


@pytest.fixture(scope='session')
def tools(root):
    "tools/nb.py and tools/book.py as modules."
    sys.path.insert(0, str(root/'tools'))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in ('nb', 'book')})
    finally:
        sys.path.remove(str(root/'tools'))


def some_photographs(folder, count=4, grayscale=2):
    "Of an ImageFolder, `count` files evenly spaced and the first grayscale ones."
    files = sorted(path for path in folder.glob('*/*')
                   if path.suffix.lower() in {'.jpg', '.jpeg', '.png'})
    if not files:
        raise FileNotFoundError(f'SYNOOD_PHOTOS={folder} holds no class folders with photographs')
    chosen = files[::max(1, len(files)//count)][:count]
    for path in files:
        with Image.open(path) as image:
            if image.mode == 'L' and path not in chosen:
                chosen.append(path)
                grayscale -= 1
        if not grayscale:
            break
    return chosen


@pytest.fixture
def photos(tmp_path):
    """An ImageFolder of real photographs, the test's own to change: the two that scikit-learn
    ships, and a few of the folder named by SYNOOD_PHOTOS, two of them grayscale."""
    folder = tmp_path/'photos'
    sources = [Path(name) for name in load_sample_images().filenames]
    places = {path: folder/path.stem/path.name for path in sources}
    if named := os.environ.get('SYNOOD_PHOTOS'):
        places |= {path: folder/path.parent.name/path.name
                   for path in some_photographs(Path(named))}
    for source, copy in places.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    return folder


@pytest.fixture
def passes(monkeypatch):
    "{what a network was run for: images it saw}."
    from synood.models import cache
    seen, real = {}, cache._run

    def counted(passes, images, rows, pixels):
        for one in passes: seen[one.kind] = seen.get(one.kind, 0) + len(rows)
        return real(passes, images, rows, pixels)
    monkeypatch.setattr(cache, '_run', counted)
    return seen


def call(*command, **options):
    "Run a command; if it fails, show what it said."
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          **options)
    assert not done.returncode, f'{command} failed:\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture
def list_methods(root, tmp_path):
    "A function: what `synood methods` prints once a file stands beside the methods of the package."
    def listed(file):
        package = tmp_path/'copied'/'synood'
        shutil.copytree(root/'synood', package, ignore=shutil.ignore_patterns('assets', '__pycache__'))
        shutil.copy(file, package/'methods')
        return call(sys.executable, '-m', 'synood', 'methods', cwd=package.parent)
    return listed


@pytest.fixture(scope='session')
def wheel(root, tracked, tmp_path_factory):
    "A wheel of the checkout, built by way of the source distribution, as a release would be."
    place = tmp_path_factory.mktemp('build')
    for name in tracked:
        if name.parts[0] not in {'nbs', 'tests', 'paper_figures'}:
            (place/'checkout'/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root/name, place/'checkout'/name)
    make_sdist = f'from setuptools.build_meta import build_sdist; build_sdist({str(place)!r})'
    call(sys.executable, '-c', make_sdist, cwd=place/'checkout')
    archive, = place.glob('*.tar.gz')
    shutil.unpack_archive(archive, place/'sdist')
    source, = (place/'sdist').iterdir()
    call(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation',
         '--no-index', '--wheel-dir', place/'wheel', source)
    built, = (place/'wheel').glob('*.whl')
    return built


def site_packages(python):
    "Where the environment of this interpreter keeps packages."
    command = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    return Path(call(python, '-c', command).strip())


@pytest.fixture(scope='session')
def clean_python(wheel, tmp_path_factory):
    """The interpreter of an environment that holds the wheel, and not the checkout.

    It borrows the packages of the running environment through a .pth file; .pth files found there
    are not read in turn, so the editable installation of the checkout stays out."""
    place = tmp_path_factory.mktemp('clean')/'venv'
    venv.create(place, with_pip=False)
    python = place/'bin'/'python'
    borrowed = [path for path in sys.path if Path(path).name in {'site-packages', 'dist-packages'}]
    (site_packages(python)/'borrowed.pth').write_text('\n'.join(borrowed))
    call(sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps',
         '--no-index', '--force-reinstall', wheel)
    return python


@pytest.fixture(scope='session')
def installed_wheel(clean_python):
    "The folder with the installed package, to put on PYTHONPATH (or use `clean_python` itself)."
    return site_packages(clean_python)
