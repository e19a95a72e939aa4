"""Scores next to the straightforward way of computing them, in one run: time, memory, difference.

    python tools/bench_scores.py              everything; classes and widths are those of ImageNet, CLIP and ResNet-50
    python tools/bench_scores.py neglabel --images 10000
    python tools/bench_scores.py visual       the scores on a classifier's features that pytorch-ood has, too
    python tools/bench_scores.py published    three of them as the published code computes them
    OMP_NUM_THREADS=1 python tools/bench_scores.py

`difference` is the largest one between both sides' scores: of cosines and probabilities as it is, of a classifier's
scores relative to the largest score. `fit_seconds` are those of one call.
"""
import resource
import sys
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch

from bench import in_turn, one_of, run, seconds, side_by_side
from synood.core.processes import workers
from synood.methods.adaneg import AdaNeg
from synood.methods.krnft import NFTAdapter, adapted_cosines
from synood.methods.logits import MSP, Energy, MaxLogit
from synood.methods.penultimate import ASHB, ASHP, ASHS, DICE, KNN, RMDS, GradNorm, ReAct, ViM
from synood.scores.head import neglabel
from synood.scores.method import TrainData

TEMPERATURE = .01
BATCH = 256  # images at once in the released code
SIZES = {'images': 2000, 'classes': 1000, 'negatives': 10_499, 'width': 512, 'groups': 100}
# train: more than penultimate + classes, else covariances are singular; few: images for what is too slow for all
CLASSIFIER = {'penultimate': 2048, 'train': 5000, 'few': 5}
SMALL = {'images': 20, 'classes': 3, 'negatives': 8, 'width': 4, 'groups': 2}


def features(sizes):
    "Random unit features of images, classes and negatives, float32."
    draw = np.random.default_rng(0)
    arrays = []
    for kind in ('images', 'classes', 'negatives'):
        rows = draw.standard_normal((sizes[kind], sizes['width']), np.float32)
        rows /= np.sqrt(np.einsum('nd,nd->n', rows, rows))[:, None]  # no copy: see `memory`
        arrays.append(rows)
    return arrays


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
    labels = np.concatenate([text, negatives])  # (L, D)
    image = torch.from_numpy(near_labels(image, labels))
    labels = torch.from_numpy(labels)
    classes = len(text)
    slots = torch.zeros(len(labels), length, labels.shape[1])  # (L, length, D)
    slots[:, 0] = labels
    entropies = torch.zeros(len(labels), length)
    counts = [1]*len(labels)
    scores = []
    kept = len(negatives) - len(negatives) % groups
    order = torch.randperm(kept, generator=torch.Generator().manual_seed(0))

    def mass(logits):
        known, parts = logits[:, :classes], logits[:, classes:][:, order].chunk(groups, dim=1)
        return torch.stack([torch.cat([known, p], 1).softmax(1)[:, :classes].sum(1) for p in parts]).mean(0)

    for batch in image.split(BATCH):
        logits = batch @ labels.T/TEMPERATURE
        static = mass(logits)
        surely_id = static > .75, slice(None, classes), 0
        surely_ood = static < .25, slice(classes, None), classes
        for sure, side, first in (surely_id, surely_ood):
            for x, row in zip(batch[sure], logits[sure][:, side]):
                p = row.softmax(0)
                entropy = -(p*torch.log(p + 1e-8)).sum()
                k = first + int(row.argmax())
                if counts[k] < length:
                    slot = counts[k]
                    counts[k] += 1
                elif (entropies[k] > entropy).any(): slot = int(entropies[k].sort(stable=True).indices[-1])
                else: continue
                slots[k, slot] = x
                entropies[k, slot] = entropy
        mean = slots.mean(1)  # (L, D)
        proxies = mean/mean.norm(dim=1, keepdim=True)
        scores.append(mass(batch @ proxies.T/TEMPERATURE) + .1*static)
    return torch.cat(scores).numpy()


def our_adaneg(image, text, negatives, groups):
    method = AdaNeg(temperature=TEMPERATURE, groups=groups, batch=BATCH)
    method.fit(TrainData({}, np.zeros(0, int), text, negatives, 1/TEMPERATURE))
    return method.score({('clip', 'image'): near_labels(image, np.concatenate([text, negatives]))})


@lru_cache
def trained_learner(width):
    "A KR-NFT learner whose every parameter has moved a little."
    learner = NFTAdapter(width)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(.05*torch.randn(parameter.shape, generator=generator))
    return learner


def plain_krnft(image, text, negatives, groups):
    "KR-NFT's cosines as released, of at most 16 images: all text features mapped anew for each."
    learner = trained_learner(text.shape[1])
    rows = [torch.from_numpy(x) for x in (text, negatives)]
    with torch.inference_mode():
        cosines = []
        for x in torch.from_numpy(image[:16]):
            text_features = learner(*rows, x[None])[0]  # (C + N, D), for this image
            cosines.append(x @ torch.nn.functional.normalize(text_features, dim=1).T)
    return torch.stack(cosines).numpy()  # (16, C + N)


def our_krnft(image, text, negatives, groups):
    learner = trained_learner(text.shape[1])
    image = torch.from_numpy(image[:16])
    with torch.inference_mode():
        cosines = adapted_cosines(learner, torch.from_numpy(text), torch.from_numpy(negatives), image, image[:, None])
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
    with workers(1) as pool:
        return pool.submit(function, *arguments).result()


def timed(reference, ours, repeats):
    "Columns on the time of both sides, once both are warm."
    turns = in_turn(dict(reference=partial(seconds, reference), ours=partial(seconds, ours)), repeats)
    return side_by_side(**turns)


def beside_release(name, sizes, repeats, megabytes):
    "One row: a score of CLIP's features as released, and ours; `megabytes` of both."
    inputs = features(sizes)
    reference, ours = (partial(score, *inputs, sizes['groups']) for score in PAIRS[name])
    difference = float(np.abs(reference() - ours()).max())  # also warms up
    return dict(**timed(reference, ours, repeats), reference_mb=megabytes[0], mb=megabytes[1], difference=difference)


class Classifier(NamedTuple):
    "A last layer and the features it sees, as random numbers in float32."
    weight: np.ndarray  # (C, D)
    bias: np.ndarray  # (C,)
    train: np.ndarray  # (M, D), none negative
    labels: np.ndarray  # (M,)
    test: np.ndarray  # (N, D), likewise

    def logits(self, features): return features @ self.weight.T + self.bias

    def features(self, method, rows):
        "Features and logits under the names a method asks for."
        role = method.needs[0][0]
        return {(role, 'penultimate'): rows, (role, 'logits'): self.logits(rows)}

    def known(self, method):
        return TrainData(self.features(method, self.train), self.labels, np.eye(2), np.eye(2), 1.,
                     head=(self.weight, self.bias))

    def layer(self):
        "The last layer as a module."
        layer = torch.nn.Linear(*self.weight.shape[::-1])
        layer.load_state_dict({'weight': torch.from_numpy(self.weight), 'bias': torch.from_numpy(self.bias)})
        return layer


def classifier(sizes):
    """Images lie around a centre for each class, and what is negative is cut off as by a ReLU.

    They lie close enough that the C directions of the centres stand out: between equally strong ones ViM chooses at
    random."""
    draw = np.random.default_rng(0)
    classes, width = sizes['classes'], sizes['penultimate']

    def normal(*shape): return draw.standard_normal(shape, np.float32)
    weight = .05*normal(classes, width)
    bias = .1*normal(classes)
    centres = normal(classes, width)

    def near(labels): return np.maximum(centres[labels] + .1*normal(len(labels), width), 0)
    labels = np.arange(sizes['train']) % classes
    return Classifier(weight, bias, near(labels), labels, near(draw.integers(classes, size=sizes['images'])))


def counterparts(net):
    """Triples: a method, the same of pytorch-ood, and what that one reads.

    pytorch-ood is imported here because nothing else needs it."""
    from pytorch_ood import detector as library

    weight, bias = torch.from_numpy(net.weight), torch.from_numpy(net.bias)
    head = torch.nn.Sequential(torch.nn.Flatten(), net.layer()).requires_grad_(False)
    dim = min(1000, net.weight.shape[1]//2)
    return [(MSP(), library.MaxSoftmax(None), 'logits'),
            (MaxLogit(), library.MaxLogit(None), 'logits'),
            (Energy(), library.EnergyBased(None), 'logits'),
            (ReAct(), library.ReAct(None, head, percentile=.9), 'feature_maps'),
            (ASHP(), library.ASH(None, head, 'ash-p', .9), 'feature_maps'),
            (ASHB(), library.ASH(None, head, 'ash-b', .9), 'feature_maps'),
            (ASHS(), library.ASH(None, head, 'ash-s', .9), 'feature_maps'),
            (DICE(), library.DICE(None, weight, bias, .7), 'features'),
            (KNN(k=1), library.KNN(None, k=1), 'features'),
            (RMDS(), library.RMD(None), 'features'),
            (ViM(dim=dim), library.ViM(None, dim, weight, bias), 'features')]  # whose score makes the logits anew


# pytorch-ood multiplies (N, C, D) numbers one by one, and D x D matrices for every class
SLOW = 'DICE', 'RMDS'


def largest_difference(ours, reference):
    "Relative to the largest score: some scores are differences and come near 0."
    return float(np.abs(ours - reference).max()/np.abs(reference).max())


def in_our_units(name, theirs, images):
    """Scores of pytorch-ood as ours would be: larger means ID.

    By design, the distance of KNN is not squared here, and RMD's scatters are not divided by the training images."""
    if name == 'KNN': return -theirs**2
    if name == 'RMDS': return -theirs*images
    return -theirs


def visual(sizes, repeats):
    "Rows of each method next to pytorch-ood's: scoring what is cached, after `fit`, in one call; fitting once."
    net = classifier(sizes)
    labels = torch.from_numpy(net.labels)

    def tensors(rows):
        z = torch.from_numpy(rows)
        return {'features': z, 'feature_maps': z[:, :, None, None], 'logits': torch.from_numpy(net.logits(rows))}

    table = {}
    for method, detector, kind in counterparts(net):
        rows = net.test[:sizes['few']] if method.name in SLOW else net.test
        their_train, our_train = tensors(net.train)[kind], net.known(method)
        their_fit = seconds(partial(getattr(detector, f'fit_{kind}'), their_train, labels))
        our_fit = seconds(partial(method.fit, our_train))
        theirs = partial(getattr(detector, f'predict_{kind}'), tensors(rows)[kind])
        ours = partial(method.score, net.features(method, rows))
        reference = in_our_units(method.name, theirs().double().numpy(), len(net.train))
        difference = largest_difference(ours(), reference)  # also warms up
        table[method.name] = dict(images=len(rows), **timed(theirs, ours, repeats), reference_fit_seconds=their_fit,
                                  fit_seconds=our_fit, difference=difference)
    return table


def plain_gradnorm(net, images):
    "GradNorm as released: for each image a pass forward and backward through the last layer."
    layer, images = net.layer(), torch.from_numpy(images)

    def score():
        norms = []
        for image in images:
            layer.zero_grad()
            (-layer(image[None]).log_softmax(1)).sum().backward()
            norms.append(layer.weight.grad.abs().sum())
        return torch.stack(norms)
    return score


def plain_dice(net, images, batch=200):
    "DICE as released: every weight that was kept times every feature, and then the sums."
    weight, bias, images = (torch.from_numpy(x) for x in (net.weight, net.bias, images))
    contribution = weight*torch.from_numpy(net.train).mean(0)
    kept = torch.where(contribution > np.percentile(contribution.numpy(), 70), weight, 0)
    return lambda: torch.cat([((rows[:, None]*kept).sum(2) + bias).logsumexp(1) for rows in images.split(batch)])


def plain_rmds(net, images):
    "Relative Mahalanobis distance as released: for each class, all images times the precision, in float32."
    train = net.train.astype(np.float64)
    means = np.stack([train[net.labels == c].mean(0) for c in range(len(net.weight))])
    inner, outer = (np.linalg.inv(x.T @ x/len(x)) for x in (train - means[net.labels], train - train.mean(0)))
    middle = train.mean(0)
    means, middle, inner, outer, images = (torch.from_numpy(x).float() for x in (means, middle, inner, outer, images))

    def distance(mean, precision): return ((images - mean) @ precision*(images - mean)).sum(1)
    return lambda: -(torch.stack([distance(mean, inner) for mean in means]) - distance(middle, outer)).amin(0)


def published(sizes, repeats):
    "Rows of GradNorm, DICE and RMDS next to the form of the published code, which is too slow for all images."
    net = classifier(sizes)
    images = net.test[:sizes['few']]
    table = {}
    for method, plain in (GradNorm(), plain_gradnorm), (DICE(), plain_dice), (RMDS(), plain_rmds):
        method.fit(net.known(method))
        reference, ours = plain(net, images), partial(method.score, net.features(method, images))
        difference = largest_difference(ours(), reference().double().numpy())  # also warms up
        table[method.name] = dict(images=len(images), **timed(reference, ours, repeats), difference=difference)
    return table


TABLES = {'visual': visual, 'published': published}


def options(parser):
    known = [*PAIRS, *TABLES]
    parser.add_argument('names', nargs='*', metavar='NAME', type=one_of(known), help=f'which: {", ".join(known)}')
    parser.add_argument('--repeats', type=int, default=3)
    for kind, size in (SIZES | CLASSIFIER).items(): parser.add_argument(f'--{kind}', type=int, default=size)


def measure(args):
    names = args.names or [*PAIRS, *TABLES]
    settings = {kind: getattr(args, kind) for kind in (*SIZES, *CLASSIFIER, 'repeats')}
    sizes = {kind: settings[kind] for kind in SIZES}
    pairs = [name for name in PAIRS if name in names]
    # all the memory first, while this process is still small
    megabytes = {name: [in_new_process(memory, score, sizes) for score in PAIRS[name]] for name in pairs}
    released = {name: beside_release(name, sizes, args.repeats, megabytes[name]) for name in pairs}
    tables = {'released': released} if pairs else {}
    return settings, tables | {name: TABLES[name](settings, args.repeats) for name in TABLES if name in names}


def main(arguments=None): run(__doc__, options, measure, arguments)


if __name__ == '__main__': main()
