"""Scores next to the straightforward way of computing them, in one run: time, memory, difference.

    python tools/bench_scores.py              every pair, at the sizes of ImageNet and CLIP ViT-B/16
    python tools/bench_scores.py neglabel --images 500 --repeats 1
    OMP_NUM_THREADS=1 python tools/bench_scores.py
"""
import argparse
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from statistics import median

import numpy as np
import torch

from synood.krnft import NFTLearner, learned_cosines
from synood.scores import Train, neglabel
from synood.zeroshot import AdaNeg

TEMPERATURE, BATCH = .01, 256  # BATCH: images at once in the released code
SIZES = {'images': 10_000, 'classes': 1000, 'negatives': 10_499, 'width': 512, 'groups': 100}
SMALL = {'images': 20, 'classes': 3, 'negatives': 8, 'width': 4, 'groups': 2}


def features(sizes):
    "Random unit features of images, classes and negatives, float32."
    draw, found = np.random.default_rng(0), []
    for kind in ('images', 'classes', 'negatives'):
        rows = draw.standard_normal((sizes[kind], sizes['width']), np.float32)
        rows /= np.sqrt(np.einsum('nd,nd->n', rows, rows))[:, None]  # no copy: see `memory`
        found.append(rows)
    return found


def plain_neglabel(image, text, negatives, groups):
    "NegLabel as released: all similarities at once, and every group's softmax holds the ID names."
    image, text, negatives = (torch.from_numpy(rows) for rows in (image, text, negatives))
    similarities, scores = image @ torch.cat([text, negatives]).T, []
    for batch in similarities.split(BATCH):
        known, unknown = batch[:, :len(text)]/TEMPERATURE, batch[:, len(text):]/TEMPERATURE
        kept = len(negatives) - len(negatives) % groups
        order = torch.randperm(kept, generator=torch.Generator().manual_seed(0))
        parts = unknown[:, order].chunk(groups, dim=1)
        masses = [torch.cat([known, part], dim=1).softmax(1)[:, :len(text)].sum(1) for part in parts]
        scores.append(torch.stack(masses).mean(0))
    return torch.cat(scores).numpy()


def our_neglabel(image, text, negatives, groups):
    return neglabel(image, text, negatives, TEMPERATURE, groups)


def near_labels(image, labels):
    "The images pulled towards labels, every other one towards a class of the first tenth: sure ID and sure OOD images."
    towards = np.random.default_rng(1).integers(len(labels), size=len(image))
    towards[::2] %= max(1, len(labels)//20)
    image = image + labels[towards]
    return image/np.linalg.norm(image, axis=1, keepdims=True)


def plain_adaneg(image, text, negatives, groups, length=10):
    "AdaNeg as one reads it: images are remembered one by one, and every batch makes all proxies again."
    labels = np.concatenate([text, negatives])
    labels, image, classes = torch.from_numpy(labels), torch.from_numpy(near_labels(image, labels)), len(text)
    slots, entropies = torch.zeros(len(labels), length, labels.shape[1]), torch.zeros(len(labels), length)
    slots[:, 0], counts, scores = labels, [1]*len(labels), []
    kept = len(negatives) - len(negatives) % groups
    order = torch.randperm(kept, generator=torch.Generator().manual_seed(0))

    def mass(logits):
        known, parts = logits[:, :classes], logits[:, classes:][:, order].chunk(groups, dim=1)
        return torch.stack([torch.cat([known, p], 1).softmax(1)[:, :classes].sum(1) for p in parts]).mean(0)

    for batch in image.split(BATCH):
        logits = batch @ labels.T/TEMPERATURE
        static = mass(logits)
        for sure, side, first in ((static > .75, slice(None, classes), 0), (static < .25, slice(classes, None), classes)):
            for x, row in zip(batch[sure], logits[sure][:, side]):
                p = row.softmax(0)
                k, entropy = first + int(row.argmax()), -(p*torch.log(p + 1e-8)).sum()
                if counts[k] < length: slot, counts[k] = counts[k], counts[k] + 1
                elif (entropies[k] > entropy).any(): slot = int(entropies[k].sort(stable=True).indices[-1])
                else: continue
                slots[k, slot], entropies[k, slot] = x, entropy
        mean = slots.mean(1)
        scores.append(mass(batch @ (mean/mean.norm(dim=1, keepdim=True)).T/TEMPERATURE) + .1*static)
    return torch.cat(scores).numpy()


def our_adaneg(image, text, negatives, groups):
    method = AdaNeg(temperature=TEMPERATURE, groups=groups, batch=BATCH)
    method.fit(Train({}, np.zeros(0, int), text, negatives, 1/TEMPERATURE))
    return method.score({('clip', 'image'): near_labels(image, np.concatenate([text, negatives]))})


@lru_cache
def trained_learner(width):
    "A KR-NFT learner whose every parameter has moved a little."
    learner, generator = NFTLearner(width), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(.05*torch.randn(parameter.shape, generator=generator))
    return learner


def plain_krnft(image, text, negatives, groups):
    "KR-NFT's cosines as released, of at most 64 images: all text features mapped anew for each."
    learner, rows = trained_learner(text.shape[1]), [torch.from_numpy(x) for x in (text, negatives)]
    with torch.inference_mode():
        found = [x @ torch.nn.functional.normalize(learner(*rows, x[None])[0], dim=1).T for x in torch.from_numpy(image[:64])]
    return torch.stack(found).numpy()


def our_krnft(image, text, negatives, groups):
    learner, image = trained_learner(text.shape[1]), torch.from_numpy(image[:64])
    with torch.inference_mode():
        cosines = learned_cosines(learner, torch.from_numpy(text), torch.from_numpy(negatives), image, image[:, None])
    return cosines[:, 0].numpy()


PAIRS = {'neglabel': (plain_neglabel, our_neglabel),  # name -> (straightforward, ours)
         'adaneg': (plain_adaneg, our_adaneg),
         'krnft': (plain_krnft, our_krnft)}


def high_water_mark():
    "The most memory this process ever held, in MB."
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit/1e6


def memory(score, sizes):
    """MB by which one call raises the high-water mark of its process.

    Meaningful in a new process only, where nothing larger came before: a small call loads the
    libraries, and the features are made without copies. Linux hands a new process the mark of the
    one that started it, so that one must not have computed anything large either."""
    score(*features(SMALL), SMALL['groups'])
    inputs = features(sizes)
    before = high_water_mark()
    score(*inputs, sizes['groups'])
    return high_water_mark() - before


def in_new_process(function, *arguments):
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *arguments).result()


def seconds(score, inputs, groups):
    begin = time.perf_counter()
    score(*inputs, groups)
    return time.perf_counter() - begin


def line(title, plain, ours, digits):
    ratio = f'{ours/plain:.2f}' if plain else '-'
    return f'{title:10}{plain:18.{digits}f}{ours:12.{digits}f}{ratio:>10}'


def compare(name, sizes, repeats, megabytes):
    "Print one pair side by side."
    pair = PAIRS[name]
    inputs, groups = features(sizes), sizes['groups']
    plain, ours = (score(*inputs, groups) for score in pair)  # also warms up
    times = [[seconds(score, inputs, groups) for score in pair] for _ in range(repeats)]
    print(f'{name}: ' + ', '.join(f'{kind} {size}' for kind, size in sizes.items())
          + f'; threads {torch.get_num_threads()}, median of {repeats}')
    print(f'{"":10}{"straightforward":>18}{"ours":>12}{"ratio":>10}')
    print(line('seconds', *(median(column) for column in zip(*times)), 3))
    print(line('peak MB', *megabytes, 1))
    print(f'largest difference {np.abs(plain - ours).max():.1e}')


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'which: {", ".join(PAIRS)}')
    parser.add_argument('--repeats', type=int, default=7)
    for kind, size in SIZES.items():
        parser.add_argument(f'--{kind}', type=int, default=size)
    args = parser.parse_args(arguments)
    if unknown := set(args.names) - set(PAIRS):
        parser.error(f'unknown {", ".join(sorted(unknown))}: choose from {", ".join(PAIRS)}')
    sizes, names = {kind: getattr(args, kind) for kind in SIZES}, args.names or list(PAIRS)
    # all the memory first, while this process is still small
    megabytes = [[in_new_process(memory, score, sizes) for score in PAIRS[name]] for name in names]
    for name, pair in zip(names, megabytes):
        compare(name, sizes, args.repeats, pair)


if __name__ == '__main__':
    main()
