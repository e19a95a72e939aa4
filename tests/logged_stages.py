"""Stages and a method that write down what is begun and what ends; the workers of a cluster import them by name."""
import os
from dataclasses import replace

from synood.core.stages import Job, stages
from synood.methods import coop  # noqa: F401, registers its stage
from synood.outliers import synthesis  # noqa: F401, registers its stage
from synood.scores.method import MCM

LOG = 'SYNOOD_TEST_LOG'  # a variable that workers take over: the file


def note(what):
    with open(os.environ[LOG], 'a') as file: file.write(f'{what}\n')


class LoggedJob(Job):
    def batches(self, items, size, make, named=None):
        def noted(batch, folder):
            note(f'{items.index(batch[0])//size:05d}')  # as its folder is called
            make(batch, folder)
        super().batches(items, size, noted, named)


def logged_synthesis(job): stages['synthesis'].make(LoggedJob(**vars(job)))


def logged_fit(job):
    note('begun')
    stages['coop'].make(job)
    note('ended')


stages['logged_synthesis'] = replace(stages['synthesis'], name='logged_synthesis', make=logged_synthesis)
stages['logged_fit'] = replace(stages['coop'], name='logged_fit', make=logged_fit)


class LoggedMCM(MCM):
    "A method in whose rows nothing is drawn."
    def fit(self, train):
        note('fitted')
        return super().fit(train)
