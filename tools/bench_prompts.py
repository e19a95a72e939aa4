"""CoOp's training next to the straightforward loop, in one run: seconds a step, difference of what is learned.

    python tools/bench_prompts.py                         the miniature, and CoOp's stage at `mini` as a whole
    python tools/bench_prompts.py --clip random:clip --classes 50 --steps 2
                                                          ViT-B/16 at full size, random weights, some ImageNet names
    python tools/bench_prompts.py --repeats 5 --json figures.json

Three loops take the same steps from the same start: sequences of full length with the image tower run for every batch,
as the release does; the same with image features computed once; and synood's, with features computed once and sequences
cut after the longest. A step sees one batch, all of the images there are, and is an epoch of its own, so that the rates
of all epochs occur. Decoding an image is not counted. Small networks train on one thread, as in synood, so that only
what differs is compared.
"""
import argparse
import json
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from synood.data.datasets import imagenet_names
from synood.models.hub import device
from synood.models.clip import load_clip
from synood.data.images import read_sets
from synood.methods.coop import FewShotFeatures, encode_embedded, random_context, prompt_tokens, text_tower, train_coop
from synood.core.training import epoch_plan
from synood.core.stages import run_stage, versions
from synood.core.scales import generator, get_scale
from synood.core.training import epoch_rate, single_thread


def pictures_of(scale, root, count):
    "Pixels (B, 3, H, W), labels (B,) and class names: `count` training images of a scale, evenly over its classes."
    train = read_sets(run_stage('images', scale, (0,), root)[0])['train']
    chosen = train.take(np.linspace(0, len(train) - 1, count).astype(int))
    transform = load_clip(scale.clip).transform
    pixels = torch.stack([transform(chosen.read(i)) for i in range(count)])  # (B, 3, H, W)
    return pixels, torch.from_numpy(chosen.labels), train.classes


def noise_for(clip, classes, count):
    "The same for a network without pictures: noise, and the first of ImageNet's names."
    side = np.broadcast_to(clip.model.visual.image_size, 2)
    pixels = torch.rand(count, 3, *side, generator=torch.Generator().manual_seed(0))  # (B, 3, H, W)
    return pixels, torch.arange(count) % classes, imagenet_names()[:classes]


def image_tower(clip, pixels):
    with torch.no_grad(): return F.normalize(clip.model.encode_image(pixels), dim=1)


def straightforward(clip, names, look, labels, scale):
    """The context (1, n, W) that CoOp learns with sequences of full length.

    look: rows -> unit image features (B, D), called in every step."""
    tower = text_tower(clip)
    length = scale.coop.n_ctx
    tokens = clip.tokenizer([f'{name}.' for name in names]).to(device())  # (C, L)
    with torch.no_grad(): words = tower.token_embedding(tokens)  # (C, L, W)
    start = words[:, :1]  # (C, 1, W)
    rest = words[:, 1:words.shape[1] - length]  # (C, L - 1 - n, W)
    ends = tokens.argmax(1) + length  # (C,)
    context = random_context(clip, 1, length, generator(0, 'coop', '', 'init')).requires_grad_()
    optimiser = torch.optim.SGD([context], momentum=.9, weight_decay=5e-4)
    for epoch, rows in epoch_plan(len(labels), scale.coop.epochs, scale.coop.batch_size, 0, 'coop'):
        optimiser.param_groups[0]['lr'] = epoch_rate(epoch, scale.coop.epochs, scale.coop.lr)
        embedded = torch.cat([start, context.expand(len(names), -1, -1), rest], 1)  # (C, L, W)
        text = encode_embedded(clip, embedded, ends)  # (C, D)
        logits = clip.logit_scale*look(rows) @ F.normalize(text, dim=1).T  # (B, C)
        loss = F.cross_entropy(logits, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return context.detach()


def loops(clip, names, pixels, labels, scale):
    "{what: a call that trains and returns the context}, in the order of the lines printed."
    features = image_tower(clip, pixels)
    plain = partial(straightforward, clip, names, labels=labels, scale=scale)

    def ours(): return train_coop(clip, names, FewShotFeatures(features, labels), scale, 0).model.context.detach()
    return {'full length, image tower': partial(plain, look=lambda rows: image_tower(clip, pixels[rows])),
            'full length, cached features': partial(plain, look=lambda rows: features[rows]),
            'cut, cached features (synood)': ours}


def settle():
    if torch.cuda.is_available(): torch.cuda.synchronize()


def clocked(call):
    "Seconds, and what the call returned."
    settle()
    started = time.perf_counter()
    result = call()
    settle()
    return time.perf_counter() - started, result


def few_threads(clip):
    "As many threads as synood's own loop takes for this network."
    return single_thread() if text_tower(clip).token_embedding.weight.shape[1] < 256 else nullcontext()


def moved(clip, scale, context):
    "The largest change of a context since the start."
    start = random_context(clip, 1, scale.coop.n_ctx, generator(0, 'coop', '', 'init'))
    return float((context - start).abs().max())


def race(clip, names, pixels, labels, scale, repeats):
    """{loop: what was measured}: seconds a step of every repeat, their median and its ratio to the first loop's,
    how far the context moved, and its largest difference from the first loop's."""
    pixels, labels = pixels.to(device()), labels.to(device())
    for call in loops(clip, names, pixels, labels, scale.replace(coop=dict(epochs=1))).values(): call()  # warms up
    calls = loops(clip, names, pixels, labels, scale)
    runs = []
    for _ in range(repeats):  # in turn, so that a slow minute hits all
        runs.append({name: clocked(call) for name, call in calls.items()})
    _, first_context = runs[0][next(iter(calls))]
    measured = {}
    for name in calls:
        seconds = [run[name][0]/scale.coop.epochs for run in runs]
        context = runs[0][name][1]
        measured[name] = dict(seconds=seconds, median=median(seconds), moved=moved(clip, scale, context),
                              difference=float((context - first_context).abs().max()))
    first = next(iter(measured.values()))
    return {name: dict(**figures, ratio=figures['median']/first['median']) for name, figures in measured.items()}


def whole_stage(scale, root):
    "Seconds of CoOp's stage, with the images there and no feature computed."
    run_stage('images', scale, (0,), root)
    load_clip(scale.clip)
    seconds, folders = clocked(lambda: run_stage('coop', scale, (0,), root))
    steps = len(json.loads((folders[0]/'training.json').read_text(encoding='utf-8'))['losses'])
    return dict(scale=scale.name, threads=torch.get_num_threads(), shots=scale.coop.shots, epochs=scale.coop.epochs,
                steps=steps, seconds=seconds)


def compare(args, root):
    "All figures of a run, as `--json` writes them."
    scale = get_scale(args.scale or ('paper' if args.clip else 'mini'))
    scale = scale.replace(n_test=10, test_splits=1)  # no test image is looked at
    if args.length: scale = scale.replace(coop=dict(n_ctx=args.length))
    clip = load_clip((args.clip,) if args.clip else scale.clip)
    stage = {} if args.clip else dict(stage=whole_stage(scale, root))
    batch, length = scale.coop.batch_size, scale.coop.n_ctx
    pixels, labels, names = noise_for(clip, args.classes, batch) if args.clip else pictures_of(scale, root, batch)
    cut = 1 + length + prompt_tokens(clip, names, length).rest.shape[1]
    tokens = dict(full=clip.tokenizer(['']).shape[1], cut=cut)
    with few_threads(clip):
        measured = race(clip, names, pixels, labels, scale.replace(coop=dict(epochs=args.steps)), args.repeats)
        cpu = f'CPU, {torch.get_num_threads()} thread(s)'
    return dict(command=' '.join(['python', 'tools/bench_prompts.py', *args.line]),
                device=torch.cuda.get_device_name() if torch.cuda.is_available() else cpu, packages=versions(),
                clip=args.clip or scale.clip[0], classes=len(names), length=length, batch=batch, steps=args.steps,
                tokens=tokens, loops=measured, **stage)


LINE = '{name:32}{median:16.4f}{ratio:10.3f}{moved:12.1e}{difference:12.1e}'
STAGE_LINE = 'the stage at {scale}, {shots} shots, {epochs} epochs, {steps} steps, {threads} thread(s): {seconds:.1f} s'


def show(figures):
    repeats = len(next(iter(figures['loops'].values()))['seconds'])
    print('CoOp on {clip}, {classes} classes, batch {batch}, {steps} steps; {device}, '.format(**figures)
          + f'median of {repeats}')
    tokens = 'tokens {full} cut to {cut}'.format(**figures['tokens'])
    print(f"{tokens:32}{'seconds a step':>16}{'ratio':>10}{'moved':>12}{'difference':>12}")
    for name, loop in figures['loops'].items(): print(LINE.format(name=name, **loop))
    if 'stage' in figures: print(STAGE_LINE.format(**figures['stage']))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--scale', help='default: mini; with --clip: paper')
    parser.add_argument('--clip', help='the loops alone, on this network and noise for images')
    parser.add_argument('--classes', type=int, default=50, help='with --clip: so many of ImageNet\'s names')
    parser.add_argument('--length', type=int, help='context vectors; default: the scale\'s')
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', type=Path, help='write all figures here')
    args = parser.parse_args()
    args.line = sys.argv[1:]
    with tempfile.TemporaryDirectory() as root: figures = compare(args, Path(root))
    show(figures)
    if args.json: args.json.write_text(json.dumps(figures, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
