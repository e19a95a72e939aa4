"""CoOp's training next to the straightforward loop, in one run: seconds a step, difference of what is learned.

    python tools/bench_prompts.py                         the miniature, and CoOp's stage at `mini` as a whole
    python tools/bench_prompts.py --clip random:clip --classes 50 --steps 2
                                                          ViT-B/16 at full size, random weights, some ImageNet names
    python tools/bench_prompts.py --repeats 5

Three loops take the same steps from the same start: sequences of full length with the image tower run for every batch,
as the release does; the same with image features computed once; and synood's, with features computed once and sequences
cut after their ends, twenty classes in a row. A step sees one batch, all of the images there are, and is an epoch of
its own, so that the rates of all epochs occur. Decoding an image is not counted. Small networks train on one thread, as
in synood, so that only what differs is compared. `speedup` is against the first loop; `moved` is how far its context
went from the start, and `difference` how far it ended from the first loop's.
"""
import json
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bench import clocked, in_turn, run, side_by_side
from synood.core.scales import generator, get_scale
from synood.core.stages import run_stage
from synood.core.training import epoch_plan, epoch_rate, single_thread
from synood.data.datasets import imagenet_names
from synood.data.images import read_sets
from synood.methods.coop import FewShotFeatures, encode_embedded, random_context, prompt_buckets, text_tower, train_coop
from synood.models.clip import load_clip
from synood.models.hub import device


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


def few_threads(clip):
    "As many threads as synood's own loop takes for this network."
    return single_thread() if text_tower(clip).token_embedding.weight.shape[1] < 256 else nullcontext()


def moved(clip, scale, context):
    "The largest change of a context since the start."
    start = random_context(clip, 1, scale.coop.n_ctx, generator(0, 'coop', '', 'init'))
    return float((context - start).abs().max())


def race(clip, names, pixels, labels, scale, repeats):
    "{loop: seconds a step, how many times faster than the first, how far it moved, its distance from the first}."
    pixels, labels = pixels.to(device()), labels.to(device())
    for call in loops(clip, names, pixels, labels, scale.replace(coop=dict(epochs=1))).values(): call()  # warms up
    calls = loops(clip, names, pixels, labels, scale)
    runs = in_turn({name: partial(clocked, call) for name, call in calls.items()}, repeats)
    steps = {name: [seconds/scale.coop.epochs for seconds, _ in turns] for name, turns in runs.items()}
    contexts = {name: turns[0][1] for name, turns in runs.items()}
    first = next(iter(calls))
    return {name: dict(**side_by_side(steps[first], steps[name]), moved=moved(clip, scale, contexts[name]),
                       difference=float((contexts[name] - contexts[first]).abs().max()))
            for name in calls}


def whole_stage(scale, root):
    "Seconds of CoOp's stage, with the images there and no feature computed."
    run_stage('images', scale, (0,), root)
    load_clip(scale.clip)
    seconds, folders = clocked(lambda: run_stage('coop', scale, (0,), root))
    steps = len(json.loads((folders[0]/'training.json').read_text(encoding='utf-8'))['losses'])
    return dict(shots=scale.coop.shots, epochs=scale.coop.epochs, steps=steps, seconds=seconds)


def options(parser):
    parser.add_argument('--scale', help='default: mini; with --clip: paper')
    parser.add_argument('--clip', help='the loops alone, on this network and noise for images')
    parser.add_argument('--classes', type=int, default=50, help='with --clip: so many of ImageNet\'s names')
    parser.add_argument('--length', type=int, help='context vectors; default: the scale\'s')
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--repeats', type=int, default=3)


def compare(args, root):
    "What was chosen, and the tables."
    scale = get_scale(args.scale or ('paper' if args.clip else 'mini'))
    scale = scale.replace(n_test=10, test_splits=1)  # no test image is looked at
    if args.length: scale = scale.replace(coop=dict(n_ctx=args.length))
    clip = load_clip((args.clip,) if args.clip else scale.clip)
    stage = {} if args.clip else {'stage': {f'coop at {scale.name}': whole_stage(scale, root)}}
    batch, length = scale.coop.batch_size, scale.coop.n_ctx
    pixels, labels, names = noise_for(clip, args.classes, batch) if args.clip else pictures_of(scale, root, batch)
    cut = 1 + length + max(bucket.rest.shape[1] for bucket in prompt_buckets(clip, names, length))
    with few_threads(clip):
        table = race(clip, names, pixels, labels, scale.replace(coop=dict(epochs=args.steps)), args.repeats)
        loop_threads = torch.get_num_threads()
    settings = dict(clip=args.clip or scale.clip[0], classes=len(names), length=length, batch=batch, steps=args.steps,
                    repeats=args.repeats, loop_threads=loop_threads, tokens_full=clip.tokenizer(['']).shape[1],
                    tokens_cut=cut)
    return settings, {'loops': table, **stage}


def measure(args):
    with tempfile.TemporaryDirectory() as root: return compare(args, Path(root))


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
