"""Installs the package as settings.ini describes it."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

SPDX = {'apache2': 'Apache-2.0'}  # nbdev's names of licences, and the standard ones

root = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(root/'settings.ini', encoding='utf-8')
settings = parser['DEFAULT']
library = settings['lib_name']
readme = root/'README.md'
names = 'onnx', 'demo', 'heic', 'cluster', 'docs', 'dev'
extras = {name: settings[f'{name}_requirements'].split() for name in names}
extras['dev'] += extras['onnx'] + extras['demo'] + extras['heic']  # for their tests

setup(
    name=library,
    version=settings['version'],
    description=settings['description'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    author=settings['author'],
    author_email=settings['author_email'],
    keywords=settings['keywords'],
    license_expression=SPDX[settings['license']],
    license_files=['LICENSE'],
    python_requires=f'>={settings["min_python"]}',
    classifiers=[f'Programming Language :: Python :: {version}' for version in settings['python_versions'].split()],
    packages=find_packages(include=[library, f'{library}.*']),
    package_data={library: settings['package_data'].split()},
    include_package_data=False,
    install_requires=settings['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': settings['console_scripts'].split()},
    zip_safe=False,
)
