"""Valid images of every format, and ways to damage them, for test_fuzz_images.py."""
import gzip
import io
import json
import os
import resource
import signal
import struct
import sys
import time
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin


def saved(image, form, **options):
    "The bytes of a picture in a format."
    packed = io.BytesIO()
    image.save(packed, form, **options)
    return packed.getvalue()


def chunk(kind, content):
    "A chunk of a PNG, with its checksum."
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def png(width, height, *chunks, bits=8, colour=2, interlaced=0, pixels=b''):
    "A PNG by hand: header, chunks, pixel data as it is packed."
    header = struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, interlaced)
    chunks = chunk(b'IHDR', header), *chunks, chunk(b'IDAT', pixels), chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


def exif(orientation=6):
    "A note with an orientation and a title."
    note = Image.Exif()
    note[0x0112] = orientation
    note[0x010e] = 'a valley'
    return note


def valid(rng, photographs=()):
    "{name with extension: bytes} of valid files of every kind."
    flat = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((72, 54), Image.BICUBIC)
    grey, clear = flat.convert('L'), flat.convert('RGBA')
    clear.putalpha(grey)
    one_bit, palette = grey.convert('1'), flat.quantize(16)
    deep = Image.fromarray(rng.integers(0, 65536, (40, 30)).astype(np.uint16))
    frames = [flat.rotate(90*k) for k in range(3)]
    pages = dict(save_all=True, append_images=frames[1:])
    moving = dict(pages, duration=40)
    text = PngImagePlugin.PngInfo()
    text.add_text('comment', 'a valley', zip=True)
    width = 30
    rows = b''.join(b'\0' + rng.integers(0, 256, 6*width, np.uint8).tobytes() for _ in range(20))
    files = {
        'baseline.jpg': saved(flat, 'JPEG'), 'progressive.jpg': saved(flat, 'JPEG', progressive=True),
        'cmyk.jpg': saved(flat.convert('CMYK'), 'JPEG'), 'exif.jpeg': saved(flat, 'JPEG', exif=exif()),
        'grey.jpg': saved(grey, 'JPEG'),
        'rgb.png': saved(flat, 'PNG', pnginfo=text), 'exif.png': saved(flat, 'PNG', exif=exif()),
        '16.png': saved(deep, 'PNG'), '48.png': png(width, 20, bits=16, pixels=zlib.compress(rows)),
        'palette.png': saved(palette, 'PNG', transparency=3), 'one.png': saved(one_bit, 'PNG'),
        'rgba.png': saved(clear, 'PNG'), 'la.png': saved(clear.convert('LA'), 'PNG'),
        'interlaced.png': png(8, 8, colour=0, interlaced=1, pixels=zlib.compress(bytes(81))),
        'animated.png': saved(flat, 'PNG', **moving),
        'still.gif': saved(flat, 'GIF'), 'animated.gif': saved(flat, 'GIF', **moving),
        'lossy.webp': saved(flat, 'WEBP'), 'lossless.webp': saved(clear, 'WEBP', lossless=True),
        'animated.webp': saved(flat, 'WEBP', **moving), 'exif.webp': saved(flat, 'WEBP', exif=exif()),
        'rgb.bmp': saved(flat, 'BMP'), 'palette.bmp': saved(palette, 'BMP'),
        'raw.tif': saved(flat, 'TIFF'), 'lzw.tif': saved(flat, 'TIFF', compression='tiff_lzw'),
        'zip.tiff': saved(flat, 'TIFF', compression='tiff_adobe_deflate'),
        'jpeg.tiff': saved(flat, 'TIFF', compression='jpeg'), 'fax.tif': saved(one_bit, 'TIFF', compression='group4'),
        '16.tif': saved(deep, 'TIFF'), 'pages.tiff': saved(flat, 'TIFF', **pages),
        'rgb.avif': saved(flat, 'AVIF', exif=exif()), 'rgb.jp2': saved(flat, 'JPEG2000'),
        '16.jp2': saved(deep, 'JPEG2000'), 'tiles.j2k': saved(flat, 'JPEG2000', tile_size=(16, 16), no_jp2=True),
        'two.mpo': saved(flat, 'MPO', **pages),  # behind the TIFFs: it marks the frames
        'rgb.ppm': saved(flat, 'PPM'), 'grey.pgm': saved(grey, 'PPM'),
        'deep.pgm': b'P5 30 40 4095 ' + rng.integers(0, 4096, 1200).astype('>u2').tobytes(),
        'plain.pbm': b'P1 # a comment\n3 2\n010 101\n',
        'no ending': saved(flat, 'JPEG'), 'wrong.txt': saved(flat, 'PNG'), 'a.jfif': saved(flat, 'JPEG'),
        'b.JPE': saved(flat, 'JPEG')}
    return files | {f'photograph{i}{path.suffix.lower()}': path.read_bytes() for i, path in enumerate(photographs)}


def flipped(rng, data):
    "A few bits turned over."
    data = bytearray(data)
    for place in rng.integers(0, 8*len(data), int(2**rng.uniform(0, 8))):
        data[place//8] ^= 1 << place % 8
    return bytes(data)


def early(rng, data):
    "A few bytes near the start, where headers stand, replaced by extreme ones."
    data = bytearray(data)
    for place in rng.integers(0, min(len(data), 256), int(rng.integers(1, 6))):
        data[place] = rng.choice([0, 1, 0x7f, 0x80, 0xff])
    return bytes(data)


def cut(rng, data): return data[:int(rng.integers(0, len(data)))]


def inserted(rng, data):
    place = int(rng.integers(0, len(data)))
    return data[:place] + rng.bytes(int(2**rng.uniform(0, 12))) + data[place:]


def deleted(rng, data):
    place = int(rng.integers(0, len(data)))
    return data[:place] + data[place + int(2**rng.uniform(0, 10)):]


def doubled(rng, data):
    "A run of bytes repeated in its place."
    first, last = sorted(int(x) for x in rng.integers(0, len(data), 2))
    return data[:last] + data[first:]


def size(rng, small=2): return int(rng.choice([0, 1, small, 9_000, 9_460, 40_000, 65_535]))


def lying(rng, data):
    "Another width and height in the header."
    data = bytearray(data)
    width = size(rng)
    height = size(rng)
    if data[:4] == b'\x89PNG':
        sides = [int(rng.choice([n, 2**31 - 1, 2**32 - 1], p=[.8, .1, .1])) for n in (width, height)]
        data[16:24] = struct.pack('>II', *sides)
        data[29:33] = struct.pack('>I', zlib.crc32(bytes(data[12:29])))
    elif data[:3] == b'GIF': data[6:10] = struct.pack('<HH', width, height)
    elif data[:2] == b'BM':
        data[18:26] = struct.pack('<ii', *(int(rng.choice([n, -n, -2**31])) for n in (width, height)))
    elif data[8:12] == b'WEBP': webp_lie(rng, data, width, height)
    elif data[:2] == b'II': return tiff_lie(rng, data)
    elif data[:1] == b'P':
        most = int(rng.choice([1, 255, 1000, 65_535]))
        return b'%s %d %d %d\n' % (data[:2], width, height, most) + bytes(data[12:])
    elif (place := data.find(b'ispe') + 1): data[place + 7:place + 15] = struct.pack('>II', width, height)
    elif (place := data.find(mark := (b'ihdr', b'\xff\x51')[int(rng.integers(2))]) + 1):
        place += {b'ihdr': 3, b'\xff\x51': 5}[mark]
        data[place:place + 8] = struct.pack('>II', height, width)
    elif (place := data.find(b'\xff\xc0') + 1 or data.find(b'\xff\xc2') + 1):
        data[place + 4:place + 8] = struct.pack('>HH', height, width)
    return bytes(data)


def webp_lie(rng, data, width, height):
    "Change the sides in the header of a WebP, in place."
    kind = data[12:16]
    if kind == b'VP8X': data[24:30] = struct.pack('<I', width)[:3] + struct.pack('<I', height)[:3]
    elif kind == b'VP8 ': data[26:30] = struct.pack('<HH', width & 0x3fff, height & 0x3fff)
    elif kind == b'VP8L': data[21:25] = rng.bytes(4)


def tiff_lie(rng, data):
    "A TIFF one of whose tags holds another type, count or value."
    start, = struct.unpack_from('<I', data, 4)
    if start + 14 > len(data): return bytes(data)
    count = min(struct.unpack_from('<H', data, start)[0], (len(data) - start - 2)//12)
    if not count: return bytes(data)
    place = start + 2 + 12*int(rng.integers(count))
    field = int(rng.integers(3))
    if field == 0: struct.pack_into('<H', data, place + 2, int(rng.integers(0, 20)))
    if field == 1: value = int(rng.choice([0, 2, 1000, 2**20, 2**31 - 1, 2**32 - 1]))
    if field == 2: value = int(rng.choice([0, 1, 3, 9_000, 2**20, 2**31 - 1, 2**32 - 1]))
    if field: struct.pack_into('<I', data, place + 4*field, value)
    return bytes(data)


DAMAGE = flipped, early, cut, inserted, deleted, doubled, lying, lying


def mutants(rng, files, count):
    "(name, bytes) of `count` damaged files; every valid one and every kind of damage has its turn."
    names = sorted(files)
    for i in range(count):
        name = names[i % len(names)]
        data = files[name]
        for harm in [DAMAGE[(i//len(names) + i) % len(DAMAGE)], *rng.choice(DAMAGE, int(rng.integers(0, 2)))]:
            if data: data = harm(rng, data)
        stem, extension = os.path.splitext(name)
        if rng.random() < .05: extension = str(rng.choice(['.jpg', '.png', '.gif', '.webp', '.bmp', '.tif']))
        yield f'{i:04d}-{harm.__name__}-{stem}{extension}', data


@lru_cache(maxsize=4)
def zeros(count):
    "A zlib stream of `count` zeros, packed without holding them."
    packer, block = zlib.compressobj(1), bytes(2**20)
    whole, rest = divmod(count, 2**20)
    return b''.join([*(packer.compress(block) for _ in range(whole)), packer.compress(bytes(rest)), packer.flush()])


def gif(frames, width=1, height=1):
    "An animated GIF of tiny frames."
    control = b'\x21\xf9\x04\x00\x01\x00\x00\x00'
    frame = control + b'\x2c' + struct.pack('<HHHH', 0, 0, 1, 1) + b'\x00' + b'\x02\x02\x44\x01\x00'
    head = b'GIF89a' + struct.pack('<HH', width, height) + b'\x80\0\0' + bytes(3) + b'\xff'*3
    return head + frame*frames + b';'


def riff(*chunks):
    "A WebP of (kind, bytes) chunks."
    chunks = [kind + struct.pack('<I', len(data)) + data + b'\0'*(len(data) % 2) for kind, data in chunks]
    content = b'WEBP' + b''.join(chunks)
    return b'RIFF' + struct.pack('<I', len(content)) + content


def webp(frames):
    "An animated WebP of tiny frames."
    still = saved(Image.new('RGB', (1, 1)), 'WEBP', lossless=True)[12:]  # the VP8L chunk
    frame = bytes(12) + struct.pack('<I', 10)[:3] + b'\0' + still
    return riff((b'VP8X', b'\x02\0\0\0' + bytes(6)), (b'ANIM', bytes(6)), *[(b'ANMF', frame)]*frames)


def tiff(*entries, extra=b'', following=0):
    "A little-endian TIFF by hand; entries are (tag, type, count, value)."
    body = b''.join(struct.pack('<HHII', *entry) for entry in sorted(entries))
    head = b'II*\0' + struct.pack('<I', 8) + struct.pack('<H', len(entries))
    return head + body + struct.pack('<I', following) + extra


def tiff_tags(width, height, **changed):
    "The tags of a plain 8-bit grey TIFF whose pixels begin at 200."
    tags = dict(w=(256, 4, 1, width), h=(257, 4, 1, height), bits=(258, 3, 1, 8), pack=(259, 3, 1, 1),
                ink=(262, 3, 1, 1), at=(273, 4, 1, 200), per=(278, 4, 1, height), bytes=(279, 4, 1, width*height))
    return {**tags, **changed}.values()


SIDE = 9_459  # of the largest square that is read


PIXELS_8 = zlib.compress(bytes(9*8))  # of a grey PNG of 8 x 8 pixels


def grey_png(*chunks): return png(8, 8, *chunks, colour=0, pixels=PIXELS_8)


def many_tags(size):
    "20,000 entries of a TIFF that point at the same `size` bytes."
    return [(40_000 + i, 7, size, 8) for i in range(20_000)]


def traps():
    "(name, bytes) of files that lie, or that are long to read for what they show."
    yield from png_traps()
    yield from tiff_traps()
    yield 'frames.gif', gif(20_000)
    yield 'canvas.gif', gif(1, 65_535, 65_535)
    yield 'frames.webp', webp(5_000)
    yield 'canvas.webp', riff((b'VP8X', b'\x02\0\0\0' + b'\xff'*6), (b'ANIM', bytes(6)))
    yield 'scans.jpg', scans(4_000, 2_000)
    yield 'plain.ppm', b'P3 9000 9000 255\n' + b'9 '*10**6
    yield 'slow.ppm', b'P6 9000 9000 100\n' + bytes(10**7)
    yield 'long-token.ppm', b'P3 1000 1000 255\n' + b'9'*10**7
    yield 'comment.ppm', b'P6 #' + bytes(3*10**6)
    yield 'canvas.jp2', jpeg2000(9_000, 9_000, 9_000)
    yield 'tile.jp2', jpeg2000(8, 8, 60_000)
    yield 'code.jp2', jpeg2000(8, 60_000, 60_000)
    yield 'tiles.jp2', jpeg2000(4_000, 4_000, 1)
    yield 'canvas.avif', avif(9_000)
    yield 'scaled.avif', avif(3_000)
    for width, height in ((1, 65_535), (65_535, 1), (2, 40_000)):
        yield f'thin-{width}.png', saved(Image.new('1', (width, height)), 'PNG')
    bitmap = saved(Image.new('L', (8, 8)), 'BMP')
    yield 'tall.bmp', bitmap[:18] + struct.pack('<ii', 30_000, -2**31) + bytes(100)


def png_traps():
    "(name, bytes) of PNGs that unpack to more than they show."
    yield 'above.png', png(SIDE + 1, SIDE + 1, colour=0, pixels=PIXELS_8)
    yield 'huge.png', png(100_000, 100_000, pixels=PIXELS_8)
    yield 'long.png', png(1, 89_478_485, colour=0, pixels=zeros(10**6))
    yield 'wide.png', png(89_478_485, 1, colour=0, pixels=zeros(10**6))
    yield 'more-than-declared.png', png(8, 8, colour=0, pixels=zeros(2*10**8))
    for kind, start in ((b'zTXt', b'k\0\0'), (b'iTXt', b'k\0\1\0\0\0'), (b'iCCP', b'k\0\0')):
        yield f'{kind.decode()}.png', grey_png(chunk(kind, start + zeros(2*10**8)))
    yield 'texts.png', grey_png(*[chunk(b'zTXt', b'k%d\0\0' % i + zeros(2**20)) for i in range(200)])
    yield 'comments.png', grey_png(*[chunk(b'tEXt', b'k\0v')]*20_000)
    yield 'note.png', grey_png(chunk(b'eXIf', bytes(5_000_000)))
    yield 'note-tags.png', grey_png(chunk(b'eXIf', tiff(*many_tags(2**20), extra=bytes(2**20))))
    yield 'note-count.png', grey_png(chunk(b'eXIf', b'II*\0\x08\0\0\0\xff\xff' + bytes(12*65_535)))
    frames = chunk(b'acTL', struct.pack('>II', 2**31 - 1, 0))
    yield 'frames.png', png(1, 1, frames, colour=0, pixels=zlib.compress(bytes(2)))


def tiff_traps():
    "(name, bytes) of TIFFs whose tags lie or lead in circles."
    strips = dict(at=(273, 4, 2**28, 200), per=(278, 4, 1, 1), bytes=(279, 4, 2**28, 200))
    yield 'strips.tif', tiff(*tiff_tags(100, 100, **strips), extra=bytes(11_000))
    yield 'no-rows.tif', tiff(*tiff_tags(100, 100, per=(278, 4, 1, 0)), extra=bytes(11_000))
    yield 'declared.tif', tiff(*tiff_tags(9_000, 9_000), extra=bytes(11_000))
    yield 'circle.tif', tiff(*tiff_tags(10, 10), extra=bytes(300), following=8)
    pages = b''.join(struct.pack('<HI', 0, 110 + 6*(k + 1)) for k in range(50_000))
    yield 'pages.tif', tiff(*tiff_tags(10, 10), extra=pages, following=110)
    yield 'exif-circle.tif', tiff(*tiff_tags(10, 10, exif=(34665, 4, 1, 8)), extra=bytes(300))
    yield 'sub-circle.tif', tiff(*tiff_tags(10, 10, sub=(330, 4, 1, 8)), extra=bytes(300))
    yield 'tags.tif', tiff(*tiff_tags(10, 10), *many_tags(2**20), extra=bytes(2**20))


def jpeg2000(outer, inner, tile):
    "A JPEG 2000 of 8 x 8 pixels that claims other sizes in its header, in its code stream and of its tiles."
    data = bytearray(saved(Image.new('RGB', (8, 8)), 'JPEG2000'))
    header, code = data.find(b'ihdr') + 4, data.find(b'\xff\x51')
    for place, side in ((header, outer), (code + 6, inner), (code + 22, tile)):
        data[place:place + 8] = struct.pack('>II', side, side)
    return bytes(data)


def avif(side):
    "An AVIF of 8 x 8 pixels that claims to be larger."
    data = bytearray(saved(Image.new('RGB', (8, 8)), 'AVIF'))
    place = data.find(b'ispe') + 8
    data[place:place + 8] = struct.pack('>II', side, side)
    return bytes(data)


def large():
    "(name, bytes) of pictures as large as can be, and of files that are slow because they are long."
    blank = Image.new('RGB', (SIDE, SIDE))
    kinds = ('grey', 0, 8, 1), ('rgb', 2, 8, 3), ('rgba', 6, 8, 4), ('16', 0, 16, 2), ('48', 2, 16, 6)
    for name, colour, bits, width in kinds:
        yield f'near-{name}.png', png(SIDE, SIDE, bits=bits, colour=colour, pixels=zeros(SIDE*(width*SIDE + 1)))
    yield 'near-interlaced.png', png(SIDE, SIDE, interlaced=1, pixels=zeros(300_000_000))
    yield 'near-canvas.gif', gif(2, SIDE, SIDE)
    yield 'near.jpg', saved(blank, 'JPEG', quality=30)
    yield 'near-progressive.jpg', saved(blank, 'JPEG', quality=30, progressive=True, subsampling=0)
    yield 'near-cmyk.jpg', saved(Image.new('CMYK', (SIDE, SIDE)), 'JPEG', quality=30)
    yield 'near.webp', saved(Image.new('RGB', (16_383, 5_461)), 'WEBP', lossless=True, method=0, quality=0)
    yield 'near.tif', deflated(SIDE)
    yield 'near.jp2', saved(Image.new('RGB', (4_096, 4_096)), 'JPEG2000')
    yield 'near.avif', saved(Image.new('RGB', (7_000, 7_200)), 'AVIF', speed=10)
    yield 'scaled.avif', avif(7_100)
    yield 'near.ppm', b'P6 %d %d 255\n' % (SIDE, SIDE) + bytes(3*SIDE*SIDE)
    yield 'near-plain.ppm', b'P3 1024 1024 255\n' + b'9 '*(3*2**20)
    yield 'comments.png', grey_png(*[chunk(b'tEXt', b'k\0v')]*200_000)
    yield 'note.png', grey_png(chunk(b'eXIf', bytes(50_000_000)))
    small = saved(Image.new('L', (8, 8)), 'JPEG')
    note = b'\xff\xe1\xff\xffExif\0\0' + bytes(65_527)
    yield 'notes.jpg', small[:2] + note*250 + small[2:]
    yield 'tags.tif', tiff(*tiff_tags(10, 10), *many_tags(2**24), extra=bytes(2**24))
    strips = dict(at=(273, 4, 10**6, 200), per=(278, 4, 1, 1), bytes=(279, 4, 10**6, 200))
    yield 'strips.tif', tiff(*tiff_tags(1, 10**6, **strips), extra=struct.pack('<I', 1)*1_100_000)


def deflated(side):
    "A TIFF of zeros, packed."
    packed = zeros(side*side)
    tags = tiff_tags(side, side, pack=(259, 3, 1, 8), bytes=(279, 4, 1, len(packed)))
    return tiff(*tags, extra=bytes(200 - 8 - 2 - 8*12 - 4) + packed)


def scans(side, count):
    "A progressive JPEG whose last scan is repeated: every repetition costs a pass over all of the picture."
    data = saved(Image.new('L', (side, side)), 'JPEG', progressive=True)
    last = data.rfind(b'\xff\xda')
    return data[:last] + data[last:-2]*count + data[-2:]


def strangers():
    "(name, bytes) of files that are no images."
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive: archive.writestr('a.txt', 'a')
    yield 'zip.jpg', packed.getvalue()
    yield 'page.png', b'<!DOCTYPE html><html><body>404 Not Found</body></html>'
    yield 'drawing.gif', (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
                          b'<rect width="9" height="9"/></svg>')
    yield 'gzip.bmp', gzip.compress(b'a')
    yield 'empty.png', b''
    yield 'one-byte.jpg', b'\xff'
    yield 'zeros.tif', bytes(5000)
    yield 'text.webp', 'Ein Brief, kein Bild \u2603'.encode()
    yield 'script.png', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\nshowpage\n'
    yield 'document.jpg', b'%PDF-1.4\n1 0 obj\n<<>>\nendobj\n'
    yield 'portable.png', b'P6 9000 9000 255\n'
    yield 'Python', b'Python is no portable pixmap'
    yield 'BMW.txt', b'BMW is no bitmap'
    yield 'notes.txt', b'P1 is the first point'
    yield 'drawing.psd', b'8BPS' + bytes(99)
    yield 'phone.heic', b'\0\0\0\x18ftypheic' + bytes(99)


ODD_NAMES = ('a\nb.png', 'caf\u00e9.png', '\N{SNOWMAN}\N{CAT}.png', ' , ".png', "'$(x).png", '\x1b[31m.png',
             b'\xff\xfe.png'.decode(errors='surrogateescape'), f'{"n"*200}.png')


def fill(folder, files):
    "Write (name, bytes) pairs below a new folder."
    folder.mkdir(parents=True)
    for name, data in files: (folder/name).write_bytes(data)


def oddities(folder):
    """Things in a folder that are called images, and odd names of good ones.

    Returns the names of those that can be read."""
    good = saved(Image.new('RGB', (8, 8), 'red'), 'PNG')
    fill(folder, [(name, good) for name in ODD_NAMES])
    (folder/'folder.png').mkdir()
    (folder/'folder.png'/'inside.png').write_bytes(good)
    (folder/'link.png').symlink_to('folder.png/inside.png')
    (folder/'nowhere.png').symlink_to('gone.png')
    (folder/'self.png').symlink_to('self.png')
    os.mkfifo(folder/'pipe.png')
    (folder/'secret.png').write_bytes(good)
    (folder/'secret.png').chmod(0)
    try: os.mknod(folder/'device.png', 0o600 | 0o020000, os.makedev(1, 5))  # as /dev/zero, without end
    except (AttributeError, PermissionError): pass
    secret = {'secret.png'} if os.access(folder/'secret.png', os.R_OK) else set()
    return {*ODD_NAMES, 'folder.png/inside.png', 'link.png'} | secret


def megabytes():
    """The most memory this process had at once.

    Linux hands `ru_maxrss` down from the process that started this one, and VmHWM not."""
    status = Path('/proc/self/status')
    if status.exists(): return int(status.read_text().split('VmHWM:')[1].split()[0])/2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)


def read_apart(path, read):
    "Read one image in a process of its own: a dict of what came of it, in how many seconds of work and MB."
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(600)
        before, n_open = megabytes(), len(os.listdir('/dev/fd'))
        record = {}
        try: record['pixels'] = int(np.prod(read(path, orient=True).size))
        except (ValueError, FileNotFoundError) as e: record['problem'] = str(e)
        except BaseException as e: record['crash'] = repr(e)
        record['seconds'] = time.process_time()
        record['grown'] = megabytes() - before
        record['left_open'] = len(os.listdir('/dev/fd')) - n_open
        os.write(sender, json.dumps(record).encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, 'rb') as file: line = file.read()
    status = os.waitpid(child, 0)[1]
    record = json.loads(line) if line else dict(crash=f'ended with status {status}')
    return dict(record, path=str(path))


if __name__ == '__main__':  # `fuzzed_images.py FOLDER`: one JSON line per image file, the last one about this process
    from synood.data.images import find_files, read_image
    Image.init()
    folder = Path(sys.argv[1])
    for name in find_files(folder, by_content=True): print(json.dumps(read_apart(folder/name, read_image)))
    print(json.dumps(dict(megabytes=megabytes())))
