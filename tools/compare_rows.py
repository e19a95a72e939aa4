"""Compares two files of result rows, measure by measure.

    python tools/compare_rows.py OLD/results.csv NEW/results.csv [--within 1e-6]

A row is known by what was run (experiment, method, images, seed, data set ...), not by hashes of settings and weights.
Prints how many rows are in both, how many agree, and the ten largest differences. The status is 1 if any row is
missing or differs by more.
"""
import argparse
import sys

import pandas as pd

NOT_KEYS = ['params_hash', 'list_hash', 'weights']
MEASURES = ['auroc', 'fpr95', 'fpr95_ood_positive', 'aupr_in', 'aupr_out', 'id_acc']


def read(path):
    "The rows of one file, by what was run."
    rows = pd.read_csv(path, keep_default_na=False, na_values={name: [''] for name in MEASURES})
    keys = [name for name in rows.columns if name not in NOT_KEYS + MEASURES]
    rows = rows.astype({name: str for name in keys}).set_index(keys)[MEASURES]
    twice = rows.index[rows.index.duplicated()]
    if len(twice): sys.exit(f'{path}: {len(twice)} rows stand twice, the first is {twice[0]}')
    return rows


def compare(old, new, within):
    "Prints the comparison; True if every row agrees."
    only_old, only_new = old.index.difference(new.index), new.index.difference(old.index)
    both = old.index.intersection(new.index)
    difference = (old.loc[both] - new.loc[both]).abs()
    one_is_empty = old.loc[both].isna() != new.loc[both].isna()
    largest = difference.mask(one_is_empty, float('inf')).max(axis=1).fillna(0)
    agree = int((largest <= within).sum())
    print(f'{len(both):,} rows in both, {len(only_old)} only in the old file, {len(only_new)} only in the new one')
    print(f'{agree:,} agree to {within:g} in every measure, {int((largest == 0).sum()):,} to the last digit')
    for index in [*only_old[:5], *only_new[:5]]: print('only in one:', ', '.join(filter(None, index)))
    for index, value in largest[largest > within].nlargest(10).items():
        print(f'{value:.6g}', ', '.join(filter(None, index)))
    return agree == len(old) == len(new)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('old')
    parser.add_argument('new')
    parser.add_argument('--within', type=float, default=1e-6, help='the largest difference that counts as equal')
    options = parser.parse_args()
    sys.exit(not compare(read(options.old), read(options.new), options.within))
