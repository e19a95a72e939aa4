"""Pictures as people have them: sideways, thin, of any format and type, shared by threads and processes."""
import io
import logging
import os
import subprocess
import sys
import threading
import time

import fuzzed_images as fuzzed
import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from synood.detector import OODDetector
from synood.detector.fitting import user_images
from synood.data.images import image_folder, read_image
from synood.data.miniature import CLASSES, render, world
from synood.data.user_images import map_images, iter_images
from synood.core.scales import rng

UNDO = {  # orientation that a note asks for -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270}
TO_224 = image_transform((224, 224), False, (.5,)*3, (.5,)*3, resize_mode='shortest', interpolation='bicubic')


@pytest.fixture(scope='module')
def detector(): return OODDetector.from_names(CLASSES, 'mini')


@pytest.fixture(scope='module')
def pictures():
    dev = world('dev')
    return [Image.fromarray(render(dev.sample('id', rng(0, 'people', i)), rng(1, 'people', i))) for i in range(7)]


def in_a_child(work):
    "What `work()` returns as a text, and the MB it took, in a process of its own."
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        before = fuzzed.megabytes()
        try: result = str(work())
        except BaseException as e: result = repr(e)
        os.write(sender, f'{fuzzed.megabytes() - before} {result}'.encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, 'rb') as file: grown, _, result = file.read().decode().partition(' ')
    os.waitpid(child, 0)
    return result, float(grown)


def test_a_turned_picture_is_judged_as_the_upright_one(detector, pictures, tmp_path):
    turned = []
    for picture, (orientation, method) in zip(pictures, UNDO.items()):
        packed = fuzzed.saved(picture.transpose(method), 'PNG', exif=fuzzed.exif(orientation))
        (tmp_path/f'{orientation}.png').write_bytes(packed)
        turned.append([tmp_path/f'{orientation}.png', packed, io.BytesIO(packed), Image.open(io.BytesIO(packed))])
    upright = detector.score(pictures)
    for form in zip(*turned): np.testing.assert_allclose(detector.score(form), upright, atol=1e-5)
    turned_once = [read_image(path, orient=True) for path, *_ in turned]
    np.testing.assert_allclose(detector.score(turned_once), upright, atol=1e-5)  # not turned twice
    as_stored = detector.score([np.asarray(read_image(path)) for path, *_ in turned])
    assert (abs(as_stored - upright) > 1e-3).any()
    assert detector.explain(turned[4][0]).score == pytest.approx(upright[4], abs=1e-5)


def test_own_images_are_fitted_as_they_are_scored(detector, tmp_path):
    for name in CLASSES:
        (tmp_path/name).mkdir()
        Image.new('RGB', (6, 4)).save(tmp_path/name/'a.jpg', exif=fuzzed.exif())
    images = user_images(tmp_path, detector.names)
    (size, _), = map_images(lambda picture: picture.size, [('a', images.path(0))], orient=True)
    assert images.read(0).size == size == (4, 6)


@pytest.mark.parametrize('note', [b'Exif\0\0', b'Exif\0\0nothing', b'Exif\0\0II*\0\xff\xff\xff\xff',
                                  b'Exif\0\0MM\0*\0\0\0\x08\0\x09', b'\xff'*70])
def test_a_damaged_note_is_told_and_the_picture_is_scored(detector, note, caplog):
    packed = fuzzed.saved(Image.new('RGB', (6, 4), 'red'), 'JPEG', exif=note)
    with caplog.at_level(logging.WARNING, 'synood'): table = next(detector.stream([packed]))
    assert table.problem[0] == '' and np.isfinite(table.score[0])
    assert [r.getMessage() for r in caplog.records] in ([], ['0: its EXIF note is damaged, so it is not turned'])


@pytest.mark.parametrize('size', [(1, 65_535), (65_535, 1), (2, 44_000), (40, 60_000)])
def test_a_thin_picture_takes_little_memory_in_any_form(size):
    thin = Image.new('1', size)
    shape = size[::-1]
    forms = thin, fuzzed.saved(thin, 'PNG'), np.zeros(shape, np.uint8), torch.zeros(3, *shape, dtype=torch.uint8)
    for form in forms:
        def work(): return [(tuple(x.shape), problem) for x, problem in map_images(TO_224, list(iter_images(form)))]
        result, grown = in_a_child(work)
        assert result == "[((3, 224, 224), '')]"
        assert grown < 200


def test_a_child_reads_large_pictures_while_a_thread_of_its_parent_does(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (4500, 4500), np.uint8)
    Image.fromarray(noise).save(tmp_path/'large.png', compress_level=1)
    at_it, stop = threading.Event(), threading.Event()
    def keep_reading():
        while not stop.is_set():
            read_image(tmp_path/'large.png')
            at_it.set()
    reader = threading.Thread(target=keep_reading)
    reader.start()
    at_it.wait()
    child = os.fork()
    if not child:
        read_image(tmp_path/'large.png')
        os._exit(0)
    ended, began = 0, time.time()
    while not ended and time.time() - began < 300:
        ended = os.waitpid(child, os.WNOHANG)[0]
        time.sleep(.1)
    stop.set()
    reader.join()
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == child


@pytest.mark.parametrize('form', ['PNG', 'JPEG', 'GIF', 'TIFF', 'WEBP', 'AVIF', 'JPEG2000', 'PPM'])
def test_threads_may_share_an_open_picture(form):
    packed = fuzzed.saved(Image.effect_noise((900, 900), 60).convert('RGB'), form)
    expected = read_image(packed).tobytes()
    shared = Image.open(io.BytesIO(packed))
    results = []
    def look(): results.extend(map_images(lambda picture: picture.tobytes(), list(iter_images([shared]*8))))
    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert results == [(expected, '')]*24


def test_every_form_of_a_picture_has_one_score(detector, pictures, tmp_path):
    picture = pictures[0].convert('RGB')
    array, packed = np.asarray(picture), fuzzed.saved(picture, 'PNG')
    (tmp_path/'a').write_bytes(packed)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    files = str(tmp_path/'a'), tmp_path/'a', packed, bytearray(packed), memoryview(packed), io.BytesIO(packed)
    arrays = array, array/255, array.astype(np.float32)/255, tensor, tensor/255, tensor.double()/255
    scores = [detector.score(form) for form in (*files, picture, *arrays)]
    two_tensors = tensor[None].repeat(2, 1, 1, 1)  # (2, 3, H, W)
    batches = [detector.score(two_tensors)[:1], detector.score(np.stack([array]*2))[1:],
               detector.score(path for path in files[:1])]
    assert len({float(score[0]) for score in scores}) == 1
    assert {score.shape for score in scores + batches} == {(1,)}
    np.testing.assert_allclose(batches, scores[:3], atol=1e-5)


class Broken:
    "An open file on a device that fails."
    def read(self, size): raise RuntimeError('the camera is gone')


NO_PICTURES = [
    None, 7, {}, object(), [None], [[1, 2]], [], 'https://example.org/a.jpg', b'no picture', io.StringIO('text'),
    Broken(), np.zeros((9, 9), np.int64), np.zeros((3, 9, 9), np.uint8), np.array('a.png'), torch.randn(3, 9, 9),
    torch.zeros(3, 4, 4, device='meta'), torch.zeros(3, 4, 4).to_sparse(), torch.zeros(3, 0, 4),
    Image.new('RGB', (0, 5))]


def test_what_is_no_picture_gets_one_line(detector):
    for wrong in NO_PICTURES:
        with pytest.raises(ValueError) as error: detector.predict(wrong)
        assert '\n' not in str(error.value) and len(str(error.value)) < 400


def test_the_first_unreadable_file_of_a_folder_names_the_way_out(detector, tmp_path):
    (tmp_path/'a.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='a.png: not an image: .*stream'): detector.predict(tmp_path)


@pytest.fixture
def mixed(tmp_path):
    "A folder with pictures of all kinds, and with other files."
    picture = Image.new('RGB', (8, 8), 'red')
    kinds = {'a.jfif': 'JPEG', 'b.jpe': 'JPEG', 'c.ppm': 'PPM', 'd.avif': 'AVIF', 'e.jp2': 'JPEG2000',
             'noending': 'PNG', 'wrong.doc': 'GIF', 'f.png': 'PNG', 'sub/g.mpo': 'MPO'}
    others = {'notes.txt': b'P1 is a letter', 'Thumbs.db': b'', '.DS_Store': b'', 'i.psd': b'8BPS', 'empty': b'',
              'h.heic': b'\0\0\0\x18ftypheic' + bytes(99), 'table.csv': b'BM,1'}
    folder = tmp_path/'mixed'
    (folder/'sub').mkdir(parents=True)
    for name, kind in kinds.items(): picture.save(folder/name, kind)
    for name, content in others.items(): (folder/name).write_bytes(content)
    os.mkfifo(folder/'pipe')
    return folder, kinds


def test_a_folder_is_searched_by_content(mixed, caplog):
    folder, kinds = mixed
    with caplog.at_level(logging.WARNING, 'synood'): images = image_folder(folder, labelled=False)
    assert set(images.files) == {*kinds, 'h.heic'}
    assert set(image_folder(folder, labelled=False, by_content=False).files) == {'f.png'}
    line = caplog.messages[0]
    assert line.startswith(f'{folder}: 3 left out, no images: ')
    for part in ('notes.txt', 'empty', 'table.csv', 'no files: pipe', '(Photoshop): i.psd'): assert part in line
    assert 'Thumbs' not in line and 'DS_Store' not in line


def test_the_command_tells_what_it_left_out(mixed, detector, tmp_path):
    folder, kinds = mixed
    detector.save(tmp_path/'detector')
    command = [sys.executable, '-m', 'synood', 'score', str(folder), '--detector', str(tmp_path/'detector')]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert len(done.stdout.splitlines()) == 1 + len(kinds) + 1  # a head, and the HEIC picture that cannot be read here
    assert done.returncode == 1 and 'HEIC' in done.stdout
    assert '3 left out, no images' in done.stderr and 'Photoshop' in done.stderr and 'Traceback' not in done.stderr


def test_heic_is_read_with_its_extra():
    heif = pytest.importorskip('pillow_heif')
    heif.register_heif_opener()
    red = read_image(fuzzed.saved(Image.new('RGB', (64, 48), 'red'), 'HEIF'), orient=True)
    assert red.size == (64, 48) and abs(np.asarray(red, int).mean((0, 1)) - (255, 0, 0)).max() < 9


@pytest.mark.parametrize('twin', ['Cat', 'cat\u00a0', 'c\uff41t', '&#99;at'])
def test_class_folders_that_read_alike_are_refused(tmp_path, twin):
    for name in ('cat', twin):
        (tmp_path/name).mkdir(exist_ok=True)
        Image.new('RGB', (4, 4)).save(tmp_path/name/'a.png')
    if len(os.listdir(tmp_path)) < 2: pytest.skip('this file system takes the two for one')
    with pytest.raises(ValueError, match='alike'): image_folder(tmp_path)
