"""CoOp's training next to the straightforward loop, in one run: seconds a step, difference of what is learned.

    python tools/bench_prompts.py                                              the miniature, and CoOp's stage at `mini` as a whole
    python tools/bench_prompts.py --clip random:clip --classes 50 --steps 2    ViT-B/16 at full size, random weights, a part of ImageNet's names
    python tools/bench_prompts.py --repeats 5 --json figures.json

Three loops take the same steps from the same start: sequences of full length with the image tower run for every batch, as the
release does; the same with image features computed once; and synood's, with features computed once and sequences cut after the
longest. A step sees one batch, all of the images there are, and is an epoch of its own, so that the rates of all epochs occur.
Decoding an image is not counted. Small networks train on one thread, as in synood, so that only what differs is compared.
"""
import argparse
import json
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from synood.data.datasets import imagenet_names
from synood.models.features import device, load_clip
from synood.data.images import open_sets
from synood.methods.coop import Shots, encode_embedded, prompt_steps, random_context, sentences, text_tower, train_coop
from synood.core.runs import run_stage, versions
from synood.core.scales import generator, get_scale
from synood.core.training import epoch_rate, one_thread


def pictures_of(scale, root, count):
    "Pixels (B, 3, H, W), labels (B,) and class names: `count` training images of a scale, evenly over its classes."
    train = open_sets(run_stage('images', scale, (0,), root)[0])['train']
    some, transform = train.take(np.linspace(0, len(train) - 1, count).astype(int)), load_clip(scale.clip).transform
    return torch.stack([transform(some.read(i)) for i in range(count)]), torch.from_numpy(some.labels), train.classes


def noise_for(clip, classes, count):
    "The same for a network without pictures: noise, and the first of ImageNet's names."
    side = np.broadcast_to(clip.model.visual.image_size, 2)
    return torch.rand(count, 3, *side, generator=torch.Generator().manual_seed(0)), torch.arange(count) % classes, imagenet_names()[:classes]


def image_tower(clip, pixels):
    with torch.no_grad(): return F.normalize(clip.model.encode_image(pixels), dim=1)


def straightforward(clip, names, look, labels, scale):
    "The context (1, n, W) that CoOp learns with sequences of full length; look: rows -> unit image features (B, D), called in every step."
    tower, tokens, length = text_tower(clip), clip.tokenizer([f'{name}.' for name in names]).to(device()), scale.prompt_length
    with torch.no_grad(): words = tower.token_embedding(tokens)
    start, rest, ends = words[:, :1], words[:, 1:words.shape[1] - length], tokens.argmax(1) + length
    context = random_context(clip, 1, length, generator(0, 'coop', '', 'init')).requires_grad_()
    optimiser = torch.optim.SGD([context], momentum=.9, weight_decay=5e-4)
    for epoch, rows in prompt_steps(len(labels), scale.prompt_epochs, scale.prompt_batch, 0, 'coop'):
        optimiser.param_groups[0]['lr'] = epoch_rate(epoch, scale.prompt_epochs, scale.prompt_lr)
        text = encode_embedded(clip, torch.cat([start, context.expand(len(names), -1, -1), rest], 1), ends)
        loss = F.cross_entropy(clip.logit_scale*look(rows) @ F.normalize(text, dim=1).T, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return context.detach()


def loops(clip, names, pixels, labels, scale):
    "{what: a call that trains and returns the context}, in the order of the lines printed."
    features = image_tower(clip, pixels)
    plain = partial(straightforward, clip, names, labels=labels, scale=scale)
    return {'full length, image tower': partial(plain, look=lambda rows: image_tower(clip, pixels[rows])),
            'full length, cached features': partial(plain, look=lambda rows: features[rows]),
            'cut, cached features (synood)': lambda: train_coop(clip, names, Shots(features, labels), scale, 0).model.context.detach()}


def settle():
    if torch.cuda.is_available(): torch.cuda.synchronize()


def clocked(call):
    "Seconds, and what the call returned."
    settle()
    started = time.perf_counter()
    found = call()
    settle()
    return time.perf_counter() - started, found


def few_threads(clip):
    "As many threads as synood's own loop takes for this network."
    return one_thread() if text_tower(clip).token_embedding.weight.shape[1] < 256 else nullcontext()


def moved(clip, scale, context):
    "The largest change of a context since the start."
    return float((context - random_context(clip, 1, scale.prompt_length, generator(0, 'coop', '', 'init'))).abs().max())


def race(clip, names, pixels, labels, scale, repeats):
    "{loop: seconds a step of every repeat, their median and its ratio to the first loop's; how far the context moved, and its largest difference from the first loop's}."
    pixels, labels = pixels.to(device()), labels.to(device())
    warm = loops(clip, names, pixels, labels, replace(scale, prompt_epochs=1))
    calls, runs = loops(clip, names, pixels, labels, scale), []
    for call in warm.values(): call()
    for _ in range(repeats): runs.append({name: clocked(call) for name, call in calls.items()})  # in turn, so that a slow minute hits all
    found, (_, first) = {}, runs[0][next(iter(calls))]
    for name in calls:
        seconds = [run[name][0]/scale.prompt_epochs for run in runs]
        context = runs[0][name][1]
        found[name] = dict(seconds=seconds, median=median(seconds), moved=moved(clip, scale, context), difference=float((context - first).abs().max()))
    return {name: dict(**f, ratio=f['median']/next(iter(found.values()))['median']) for name, f in found.items()}


def whole_stage(scale, root):
    "Seconds of CoOp's stage, with the images there and no feature computed."
    run_stage('images', scale, (0,), root)
    load_clip(scale.clip)
    seconds, folders = clocked(lambda: run_stage('coop', scale, (0,), root))
    steps = len(json.loads((folders[0]/'training.json').read_text(encoding='utf-8'))['losses'])
    return dict(scale=scale.name, threads=torch.get_num_threads(), shots=scale.prompt_shots, epochs=scale.prompt_epochs, steps=steps, seconds=seconds)


def compare(args, root):
    scale = replace(get_scale(args.scale or ('paper' if args.clip else 'mini')), n_test=10, draws=1)  # no test image is looked at
    if args.length: scale = replace(scale, prompt_length=args.length)
    clip = load_clip((args.clip,) if args.clip else scale.clip)
    stage = {} if args.clip else dict(stage=whole_stage(scale, root))
    pixels, labels, names = noise_for(clip, args.classes, scale.prompt_batch) if args.clip else pictures_of(scale, root, scale.prompt_batch)
    tokens = dict(full=clip.tokenizer(['']).shape[1], cut=1 + scale.prompt_length + sentences(clip, names, scale.prompt_length).rest.shape[1])
    with few_threads(clip):
        found = race(clip, names, pixels, labels, replace(scale, prompt_epochs=args.steps), args.repeats)
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} thread(s)'
    return dict(command=' '.join(['python', 'tools/bench_prompts.py', *args.line]), device=where, packages=versions(), clip=args.clip or scale.clip[0],
                classes=len(names), length=scale.prompt_length, batch=scale.prompt_batch, steps=args.steps, tokens=tokens, loops=found, **stage)


def show(found):
    repeats = len(next(iter(found['loops'].values()))['seconds'])
    print(f"CoOp on {found['clip']}, {found['classes']} classes, batch {found['batch']}, {found['steps']} steps; {found['device']}, median of {repeats}")
    print(f"{'tokens {full} cut to {cut}'.format(**found['tokens']):32}{'seconds a step':>16}{'ratio':>10}{'moved':>12}{'difference':>12}")
    for name, f in found['loops'].items(): print(f"{name:32}{f['median']:16.4f}{f['ratio']:10.3f}{f['moved']:12.1e}{f['difference']:12.1e}")
    if 'stage' in found: print('the stage at {scale}, {shots} shots, {epochs} epochs, {steps} steps, {threads} thread(s): {seconds:.1f} s'.format(**found['stage']))


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
    with tempfile.TemporaryDirectory() as root: found = compare(args, Path(root))
    show(found)
    if args.json: args.json.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
