"""Images a second from JPEG to features and to a detector's decision, beside decoding alone and the network alone.

    python tools/bench_stream.py                              ResNet-50 with random weights, and the embedded CLIP
    python tools/bench_stream.py --clip random:clip --images 2048 --repeats 5    for a GPU

Photographs of 500 x 375 pixels, cut from scikit-learn's two. `features` are those of `features_of`, which every table
reads; `stream` is `OODDetector.stream`, which `synood score` writes. Four ways take turns:

    decode    read, decode and transform, and no network
    network   the network on pixels that are ready, and no decoding
    in turn   one after the other, batch by batch, as it was before; memory that is freed goes back to the system
    ours      the next batch is decoded while the network computes, and memory that is freed is kept

`speedup` is in turn/ours. `share` is what the slower of decode and network takes, divided by what ours takes: 1 would
be overlap without loss. On a CPU both want the same cores: there `cpu_share` compares processor-seconds, the sum of
decode and network with ours. Features and scores of all ways are compared, bit by bit. Waiting
threads of torch sleep, as in `synood score`.
"""
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from bench import in_turn, run, wait_for_gpu
from synood.core.files import in_threads
from synood.core.scales import get_scale, rng
from synood.data.images import image_folder
from synood.data.user_images import batched, iter_images, map_images
from synood.detector import OODDetector
from synood.detector.encoding import encode_items, encode_transformed
from synood.models.cache import BATCH, Pass, features_of, forward_batch, keep_freed_memory
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


def features(args, folder):
    "The four ways to features of a classifier."
    images, network = image_folder(folder), load_classifier((args.classifier,))
    ranges = [range(k, min(k + BATCH, len(images))) for k in range(0, len(images), BATCH)]

    def forward(batch): return {'features': penultimate_features(network.model, batch)}
    def pixels(i): return network.transform(images.read(i))
    def load(rows): return torch.stack(in_threads(pixels, rows))
    def through(batch): return forward_batch(network.model, forward, batch)['features']
    ready = [load(rows) for rows in ranges]

    def alone():
        with keep_freed_memory(): return np.concatenate([through(batch) for batch in ready])
    def plain(): return np.concatenate([through(load(rows)) for rows in ranges])
    def ours(): return features_of(Pass(network, forward, 'bench'), images, None)['features']
    return {'decode': partial(each, load, ranges), 'network': alone, 'in turn': plain, 'ours': ours}


def stream(args, folder):
    "The four ways to the decisions of a detector."
    scale = get_scale('mini').replace(clip=(args.clip,))
    detector = OODDetector.from_names(['cat', 'house', 'tree'], scale)
    clip = detector.network()
    items = list(batched(iter_images(folder), 64))

    def load(batch): return map_images(clip.transform, batch, orient=True)
    def judge(batch, *outcome): return detector.tabulate_batch([name for name, _ in batch], *outcome)
    def scores(tables): return np.concatenate([table.score.to_numpy() for table in tables])
    ready = [[pixels for pixels, _ in load(batch)] for batch in items]

    def alone():
        with keep_freed_memory():
            return scores([judge(b, *encode_transformed(clip, None, p)) for b, p in zip(items, ready)])
    def plain(): return scores([judge(batch, *encode_items(clip, None, batch)) for batch in items])
    def ours(): return scores(detector.stream(folder))
    return {'decode': partial(each, load, items), 'network': alone, 'in turn': plain, 'ours': ours}


def compared(ways, images, repeats):
    "Two tables: {way: images a second}, and the ratios."
    calls = {name: partial(clocked, call) for name, call in ways.items()}
    for name in ('network', 'ours'): calls[name]()  # warms up
    turns = in_turn(calls, repeats)
    results = [result for name in ('network', 'in turn', 'ours') for *_, result in turns[name]]
    if not all(np.array_equal(results[0], other) for other in results): sys.exit('the ways differ')
    rates = {name: dict(images_per_second=images/median(t for t, *_ in taken),
                        cpu_ms=1000*median(cpu for _, cpu, _ in taken)/images) for name, taken in turns.items()}
    turns = [{name: taken[k] for name, taken in turns.items()} for k in range(repeats)]
    ratios = dict(speedup=median(t['in turn'][0]/t['ours'][0] for t in turns),
                  cpu_speedup=median(t['in turn'][1]/t['ours'][1] for t in turns),
                  share=median(max(t['decode'][0], t['network'][0])/t['ours'][0] for t in turns),
                  cpu_share=median((t['decode'][1] + t['network'][1])/t['ours'][1] for t in turns))
    return rates, ratios


def options(parser):
    parser.add_argument('--classifier', default='random:classifier', help='of the features')
    parser.add_argument('--clip', default='embedded:clip', help='of the stream')
    parser.add_argument('--images', type=int, default=512)
    parser.add_argument('--repeats', type=int, default=2)


def measure(args):
    tables, ratios = {}, {}
    with tempfile.TemporaryDirectory() as place:
        folder = photographs(Path(place), args.images)
        for name, ways in (('features', features), ('stream', stream)):
            tables[name], ratios[name] = compared(ways(args, folder), args.images, args.repeats)
    settings = dict(classifier=args.classifier, clip=args.clip, images=args.images, repeats=args.repeats)
    return settings, tables | {'ratios': ratios}


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
