"""What a score costs beside CLIP: milliseconds an image and parameters of CLIP alone, with NegLabel, with SynOOD.

    python tools/bench_inference.py        random weights of ViT-B/16, 1,000 classes, 10,499 negative labels
    python tools/bench_inference.py --clip embedded:clip --classes 20 --negatives 999 --batches 1,8
    python tools/bench_inference.py --clip ViT-B-16-quickgelu/openai --batches 1,64 --repeats 15

Decoding an image is not counted, it is the same for all three. A method's time is CLIP's and what its score takes, each
the median of its repeats. The paper claims less than 2 ms an image and less than 1 % of parameters.
"""
from functools import partial
from statistics import median

import numpy as np
import torch

from bench import in_turn, run, seconds
from synood.core.scales import get_scale
from synood.evaluation.costs import count_parameters
from synood.models.clip import encode_pixels, load_clip
from synood.outliers.finetuning import SynOOD
from synood.scores.method import NegLabel, Synthetic, TrainData


def training(clip, classes, negatives):
    "Random features in the place of words and pictures: the time of a score does not depend on their values."
    draw = np.random.default_rng(0)

    def rows(count): return draw.standard_normal((count, clip.width)).astype(np.float32)
    synthetic = Synthetic(rows(classes), rows(classes), np.arange(classes), None)
    scale = get_scale('paper').replace(finetuning=dict(projection_epochs=1, label_epochs=1))
    return TrainData(features={}, labels=np.arange(classes), text=rows(classes), negatives=rows(negatives),
                     rest=rows(0), prompts=(), logit_scale=clip.logit_scale, clip=lambda: clip, head=None,
                     synthetic=lambda kind: synthetic, stage=None, seed=0, scale=scale)


def times(clip, fitted, batch, repeats):
    "{name: ms an image, and how many more than CLIP's}."
    side = clip.model.visual.image_size
    pixels = torch.rand(batch, 3, *np.broadcast_to(side, 2), generator=torch.Generator().manual_seed(0))
    features = encode_pixels(clip, pixels)  # waits for the GPU: the result is an array
    calls = {'CLIP': partial(encode_pixels, clip, pixels)}
    calls |= {name: partial(method.score, {('clip', 'image'): features}) for name, method in fitted.items()}
    calls = {name: partial(seconds, call) for name, call in calls.items()}
    in_turn(calls, 1)  # warms up
    ms = {name: 1000*median(taken)/batch for name, taken in in_turn(calls, repeats).items()}
    alone = ms.pop('CLIP')
    return {'CLIP': dict(ms=alone, more=0.), **{name: dict(ms=alone + more, more=more) for name, more in ms.items()}}


def options(parser):
    parser.add_argument('--clip', default='random:clip')
    parser.add_argument('--classes', type=int, default=1000)
    parser.add_argument('--negatives', type=int, default=10_499)
    parser.add_argument('--batches', default='1,16', help='images at a time')
    parser.add_argument('--repeats', type=int, default=5)


def measure(args):
    clip = load_clip((args.clip,))
    train = training(clip, args.classes, args.negatives)
    fitted = {'NegLabel': NegLabel().fit(train), 'SynOOD': SynOOD().fit(train)}
    whole = count_parameters(clip.model)
    more = {'CLIP': 0, 'NegLabel': 0, 'SynOOD': count_parameters(fitted['SynOOD'].projection)}
    parameters = {name: dict(parameters=whole + n, more=n/whole) for name, n in more.items()}
    batches = {f'batch {b}': times(clip, fitted, b, args.repeats) for b in map(int, args.batches.split(','))}
    settings = dict(clip=args.clip, classes=args.classes, negatives=args.negatives, repeats=args.repeats)
    return settings, {'parameters': parameters, **batches}


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
