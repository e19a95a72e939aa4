"""Images a second from JPEG to features and to a detector's decision, beside decoding alone and the network alone.

    python tools/bench_stream.py                              ResNet-50 with random weights, and the embedded CLIP
    python tools/bench_stream.py --clip random:clip --images 2048 --repeats 5    for a GPU

Photographs of 500 x 375 pixels, cut from scikit-learn's two. `features` are those of `features_of`, which every table
reads; `stream` is `OODDetector.stream`, which `synood score` writes. These ways take turns, each in a new process: what
one has asked of the allocator would help the next.

    decode                read, decode and transform, and no network
    network               the network on pixels that are ready, and no decoding
    decode, one thread    and `network, one thread`: the same by one thread
    in turn               decode and network after one another, batch by batch, as it was before: batch norms are
                          layers of their own, and memory that is freed goes back to the system
    ours                  the next batch is decoded while the network computes, and memory that is freed is kept

`speedup` is in turn/ours. `share` is what the slower of decode and network takes, divided by what ours takes: 1 would
be overlap without loss. On a CPU both want the same cores: there `one_thread_share` divides what the slower takes with
a thread of its own, and `cpu_share` compares processor-seconds, the sum of decode and network with ours. Features and
scores are compared: bit by bit, but for in turn, where batch norms round apart. Waiting threads of torch sleep, as in
`synood score`.
"""
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from unittest.mock import patch

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from bench import in_turn, run, wait_for_gpu
from synood.core.files import in_threads
from synood.core.processes import workers
from synood.core.scales import get_scale, rng
from synood.data.images import image_folder, read_image
from synood.data.user_images import batched, iter_images, map_images
from synood.detector import OODDetector
from synood.detector.encoding import encode_items, encode_transformed
from synood.models.cache import BATCH, Pass, features_of, forward_batch, keep_freed_memory
from synood.models import classifier
from synood.models.classifier import load_classifier, penultimate_features


def photographs(folder, count):
    "A folder of `count` JPEG files."
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    draw = rng(0, 'bench', 'stream')
    (folder/'all').mkdir()
    for k in range(count):
        left, top = draw.integers(640 - 500), draw.integers(427 - 375)
        cut = sources[k % 2].crop((left, top, left + 500, top + 375))
        cut.save(folder/'all'/f'{k:05d}.jpg', quality=90)
    return folder


def clocked(call):
    "Seconds by the clock and of the processors, and what the call returned."
    wait_for_gpu()
    began, cpu = time.perf_counter(), time.process_time()
    result = call()
    wait_for_gpu()
    return time.perf_counter() - began, time.process_time() - cpu, result


def each(load, items):
    for item in items: load(item)


def on_one_thread(call):
    torch.set_num_threads(1)
    return call()


def features(args, folder, decoded):
    """What warms the network up, and the ways to features of a classifier.

    decoded: whether pixels are made ready, for those ways that do not decode."""
    images, network = image_folder(folder), load_classifier((args.classifier,))
    ranges = [range(k, min(k + BATCH, len(images))) for k in range(0, len(images), BATCH)]

    def forward(batch): return {'features': penultimate_features(network.model, batch)}
    def pixels(i): return network.transform(images.read(i))
    def load(rows): return torch.stack(in_threads(pixels, rows))
    def through(batch): return forward_batch(network.model, forward, batch)['features']
    ready = [load(rows) for rows in ranges[:None if decoded else 1]]

    def alone():
        with keep_freed_memory(): return np.concatenate([through(batch) for batch in ready])
    def plain(): return np.concatenate([through(load(rows)) for rows in ranges])
    def ours(): return features_of(Pass(network, forward, 'bench'), images, None)['features']
    return partial(through, ready[0]), {
        'decode': partial(each, load, ranges), 'network': alone, 'in turn': plain, 'ours': ours,
        'decode, one thread': partial(each, pixels, range(len(images))),
        'network, one thread': partial(on_one_thread, alone)}


def stream(args, folder, decoded):
    "The same of the decisions of a detector."
    scale = get_scale('mini').replace(clip=(args.clip,))
    detector = OODDetector.from_names(['cat', 'house', 'tree'], scale)
    clip = detector.network()
    items = list(batched(iter_images(folder), 64))

    def load(batch): return map_images(clip.transform, batch, orient=True)
    def load_one(item): return read_image(item[1], orient=True, then=clip.transform)
    def judge(batch, *outcome): return detector.tabulate_batch([name for name, _ in batch], *outcome)
    def judge_ready(batch, pixels): return judge(batch, *encode_transformed(clip, None, pixels)).score.to_numpy()
    ready = [[pixels for pixels, _ in load(batch)] for batch in items[:None if decoded else 1]]

    def alone():
        with keep_freed_memory(): return np.concatenate(list(map(judge_ready, items, ready)))
    def plain(): return np.concatenate([judge(batch, *encode_items(clip, None, batch)).score for batch in items])
    def ours(): return np.concatenate([table.score for table in detector.stream(folder)])
    return partial(judge_ready, items[0], ready[0]), {
        'decode': partial(each, load, items), 'network': alone, 'in turn': plain, 'ours': ours,
        'decode, one thread': partial(each, load_one, chain(*items)),
        'network, one thread': partial(on_one_thread, alone)}


KINDS = {'features': features, 'stream': stream}
WAYS = 'decode', 'network', 'decode, one thread', 'network, one thread', 'in turn', 'ours'


def here(kind, way, args, folder):
    "Seconds and outcome of one way in this process, in which nothing else is measured."
    loads = patch.object(classifier, 'fold_batch_norms', lambda model: model) if way == 'in turn' else nullcontext()
    with loads: warm_up, ways = KINDS[kind](args, folder, decoded=way.startswith('network'))
    warm_up()
    return clocked(ways[way])


def in_a_new_process(*asked):
    with workers(1) as pool: return pool.submit(here, *asked).result()


def compared(kind, args, folder):
    "Two tables: {way: images a second}, and the ratios."
    turns = in_turn({way: partial(in_a_new_process, kind, way, args, folder) for way in WAYS}, args.repeats)
    def results(*ways): return [result for way in ways for *_, result in turns[way]]
    before, exact = results('in turn'), results('network', 'ours')
    if not all(np.array_equal(exact[0], other) for other in exact): sys.exit('the ways differ')
    if not all(np.allclose(exact[0], other, rtol=1e-3, atol=1e-4) for other in before): sys.exit('in turn differs')
    rates = {way: dict(images_per_second=args.images/median(t for t, *_ in taken),
                       cpu_ms=1000*median(cpu for _, cpu, _ in taken)/args.images) for way, taken in turns.items()}
    turns = [{way: taken[k] for way, taken in turns.items()} for k in range(args.repeats)]
    def slower(turn, more=''): return max(turn['decode' + more][0], turn['network' + more][0])
    ratios = dict(speedup=median(t['in turn'][0]/t['ours'][0] for t in turns),
                  cpu_speedup=median(t['in turn'][1]/t['ours'][1] for t in turns),
                  share=median(slower(t)/t['ours'][0] for t in turns),
                  one_thread_share=median(slower(t, ', one thread')/t['ours'][0] for t in turns),
                  cpu_share=median((t['decode'][1] + t['network'][1])/t['ours'][1] for t in turns))
    return rates, ratios


def options(parser):
    parser.add_argument('--classifier', default='random:classifier', help='of the features')
    parser.add_argument('--clip', default='embedded:clip', help='of the stream')
    parser.add_argument('--images', type=int, default=256)
    parser.add_argument('--repeats', type=int, default=2)


def measure(args):
    tables, ratios = {}, {}
    with tempfile.TemporaryDirectory() as place:
        folder = photographs(Path(place), args.images)
        for kind in KINDS: tables[kind], ratios[kind] = compared(kind, args, folder)
    settings = dict(classifier=args.classifier, clip=args.clip, images=args.images, repeats=args.repeats)
    return settings, tables | {'ratios': ratios}


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
