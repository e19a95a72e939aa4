"""The files around the package: workflow, citation, changelog, licence, manifest."""
import re

import pytest
import yaml


@pytest.fixture(scope='module')
def workflow(root):
    return yaml.safe_load((root/'.github'/'workflows'/'test.yml').read_text(encoding='utf-8'))


def targets(root):
    "What the Makefile calls its targets."
    return set(re.search(r'^\.PHONY: (.*)$', (root/'Makefile').read_text(), re.M)[1].split())


def test_makefile_explains_every_target(root):
    head = (root/'Makefile').read_text().split('\n\n')[0]
    assert set(re.findall(r'^# make (\S+)', head, re.M)) == targets(root)


def test_workflow_runs_targets_that_exist(root, workflow):
    commands = {name: [step['run'] for step in job['steps'] if 'run' in step] for name, job in workflow['jobs'].items()}
    assert commands == {'test': ['make test'], 'docs': ['make docs'], 'slow': ['make test-slow']}
    assert {command.removeprefix('make ') for lines in commands.values() for command in lines} <= targets(root)


def test_workflow_asks_for_no_more_than_it_needs(root, workflow, settings):
    assert workflow['permissions'] == {'contents': 'read'} and 'group' in workflow['concurrency']
    assert not any('permissions' in job or 'secrets' in str(job) for job in workflow['jobs'].values())
    for job in workflow['jobs'].values():
        assert 'timeout-minutes' in job
        actions = {step['uses'].split('@')[0]: step for step in job['steps'] if 'uses' in step}
        assert set(actions) == {'actions/checkout', 'actions/setup-python'}
        assert all(re.fullmatch(r'[\w/-]+@v\d+', step['uses']) for step in actions.values())
        python = actions['actions/setup-python']['with']
        assert python['cache'] == 'pip'
        assert python['python-version'] in (settings['min_python'], '${{ matrix.python }}')
        assert all((root/name).is_file() for name in python['cache-dependency-path'].split())


def test_every_declared_python_is_tested(workflow, settings):
    matrix = workflow['jobs']['test']['strategy']['matrix']
    assert matrix['python'] == settings['python_versions'].split()
    assert matrix['python'][0] == settings['min_python']


def test_slow_tests_run_weekly_or_when_asked(workflow):
    when = workflow[True]  # YAML 1.1 reads `on` as true
    assert set(when) == {'push', 'pull_request', 'schedule', 'workflow_dispatch'}
    day = when['schedule'][0]['cron'].split()[-1]
    assert day in '0123456'
    assert set(re.findall(r"'(\w+)'", workflow['jobs']['slow']['if'])) == {'schedule', 'workflow_dispatch'}
    assert not any('if' in workflow['jobs'][name] for name in ('test', 'docs'))


# Of the Citation File Format 1.2.0: the keys that this file may use.
CITATION = {'cff-version', 'message', 'type', 'title', 'abstract', 'authors', 'version', 'license', 'keywords',
            'references'}
REFERENCE = {'type', 'title', 'authors', 'conference', 'year', 'identifiers', 'notes'}


def test_citation_is_valid_and_says_what_settings_say(root, settings):
    cited = yaml.safe_load((root/'CITATION.cff').read_text(encoding='utf-8'))
    assert set(cited) == CITATION and cited['cff-version'] == '1.2.0' and cited['type'] == 'software'
    assert (cited['version'], cited['license']) == (settings['version'], 'Apache-2.0')
    assert [author['name'] for author in cited['authors']] == [settings['author']]
    assert len(set(cited['keywords'])) == len(cited['keywords'])
    assert [paper['conference']['name'] for paper in cited['references']] == ['ICCV 2025', 'CVPR 2025', 'ACM MM 2025']
    for paper in cited['references']:
        assert {'type', 'title', 'authors'} <= set(paper) <= REFERENCE and paper['year'] == 2025
        assert all(set(author) == {'family-names', 'given-names'} for author in paper['authors'])


def test_changelog_knows_the_version(root, settings):
    text = (root/'CHANGELOG.md').read_text(encoding='utf-8')
    sections = re.findall(r'^## \[(.+?)\]', text, re.M)
    assert sections[0] == 'Unreleased' and len(set(sections)) == len(sections)
    assert settings['version'] in text


def test_licence_is_the_whole_text(root):
    text = (root/'LICENSE').read_text(encoding='utf-8')
    assert re.findall(r'^   (\d)\. ', text, re.M) == list('123456789')
    assert 'Apache License\n                           Version 2.0, January 2004' in text
    assert 'END OF TERMS AND CONDITIONS' in text and text.rstrip().endswith('limitations under the License.')


def test_source_distribution_takes_the_files_along(root):
    included = [name for line in (root/'MANIFEST.in').read_text().splitlines()
                if line.startswith('include ') for name in line.split()[1:]]
    assert {'LICENSE', 'README.md', 'CHANGELOG.md', 'CITATION.cff', 'CONTRIBUTING.md', 'settings.ini',
            'constraints.txt'} <= set(included)
    assert [name for name in included if not (root/name).is_file()] == []
