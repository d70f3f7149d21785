"""The commands in the documentation: they are there, and write what is shown."""

import argparse
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pages import DOCS, PAGES, ROOT, Block, blocks, commands, masked, name
from support import Job, environment, until

import jobslib
from jobslib.cmdlineparser import build_command_parser, build_parser
from jobslib.commands import COMMANDS, load_command
from jobslib.testing import ConsulStandIn

# Without its types, which nothing else here would need.
yaml: Any = importlib.import_module('yaml')

LITERAL = re.compile(r'``([^`]+)``')
FENCED = re.compile(r'^```sh\n(.*?)^```', re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r'^(?:\w+@\w+)?\$ ', re.MULTILINE)
# What the tasks in the pages take themselves.
OWN = {'--word', '--limit', '--database', '--count'}
FILE = re.compile(r'(?:examples|integration|docs|tests|jobslib)/[\w./@-]*')
TASK = '''
from jobslib import BaseTask


class Tick(BaseTask):
    def task(self):
        pass
'''


def typed(page: pathlib.Path) -> list[str]:
    """Return the commands that *page* has its reader type, one a line."""
    if page.suffix == '.md':
        return '\n'.join(FENCED.findall(page.read_text())).splitlines()
    joined = '\n'.join(block.code.replace('\\\n', ' ')
                       for block in blocks(page, 'console'))
    return [PROMPT.sub('', line) for line in joined.splitlines()
            if PROMPT.match(line)]


def named(page: pathlib.Path) -> list[str]:
    """Return the commands that the text of *page* names."""
    found = [' '.join(each.split()) for each in LITERAL.findall(
        page.read_text())]
    return [each for each in found if each.startswith('runjob ')]


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    """Return the parser that ``runjob`` would use for *words*."""
    for word in words:
        if word in COMMANDS:
            return build_command_parser(word, load_command(word))
    return build_parser()


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return the flags that *parser* knows."""
    return {flag for action in parser._actions
            for flag in action.option_strings}


WITH_COMMANDS = [page for page in [*PAGES, ROOT / 'README.md']
                 if typed(page) or named(page)]


@pytest.mark.parametrize('page', WITH_COMMANDS, ids=lambda page: page.name)
def test_flags_are_there(page: pathlib.Path) -> None:
    """Each command of ``runjob`` in a page is one, with flags that it has."""
    for line in [*typed(page), *named(page)]:
        for part in re.split(r'[|;&]+', line):
            words = shlex.split(part, comments=True)
            if words and words[0].rpartition('/')[2] == 'runjob':
                known = flags_of(parser_of(words)) | OWN
                given = {word.partition('=')[0] for word in words
                         if re.match(r'--?[a-z]', word)}
                assert given <= known, line


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_named_flags_are_there(page: pathlib.Path) -> None:
    """A flag that the text names alone is one of some command."""
    known = OWN | flags_of(build_parser())
    for command in COMMANDS:
        known |= flags_of(parser_of([command]))
    given = {each.split()[0] for each in LITERAL.findall(page.read_text())
             if each.startswith('--')}
    assert given <= known


@pytest.mark.parametrize('page', WITH_COMMANDS, ids=lambda page: page.name)
def test_shell_understands(page: pathlib.Path) -> None:
    """What is typed is a line that a shell understands."""
    done = subprocess.run(['bash', '-n'], input='\n'.join(typed(page)),
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_data_can_be_read(page: pathlib.Path) -> None:
    """JSON and YAML in a page are JSON and YAML."""
    for block in blocks(page, 'json'):
        json.loads(block.code)
    for block in blocks(page, 'yaml'):
        assert yaml.safe_load(block.code)


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_named_files_are_there(page: pathlib.Path) -> None:
    """A file of the repository that a page names is there."""
    for literal in LITERAL.findall(page.read_text()):
        if FILE.fullmatch(literal):
            assert (ROOT / literal).exists(), literal
        elif re.fullmatch(r'test_faults_\w+\.py', literal):
            assert (ROOT / 'integration' / literal).exists(), literal


def test_shown_error_is_one(tmp_path: pathlib.Path) -> None:
    """The error that the page about the command line shows is the real one."""
    pairs = [
        pair for block in blocks(DOCS / 'reference' / 'cli.rst', 'console')
        for pair in commands(block.code)]
    assert len(pairs) == 2
    (tmp_path / 'tick.py').write_text(TASK)
    for command, shown in pairs:
        done = runjob(tmp_path, command[1:])
        assert (done.returncode, done.stderr) == (2, shown)


def runjob(folder: pathlib.Path, args: list[str],
           **extra: str) -> subprocess.CompletedProcess[str]:
    """Run ``runjob`` with *args* in *folder* to its end."""
    return subprocess.run(
        [sys.executable, '-m', 'jobslib', *args], cwd=folder,
        env=environment(folder / 'run', **extra), capture_output=True,
        text=True, stdin=subprocess.DEVNULL, timeout=60)


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder with the task and the settings, for a stand-in of Consul."""
    with ConsulStandIn() as consul:
        (tmp_path / 'tick.py').write_text(TASK)
        (tmp_path / 'settings.py').write_text(
            f'RUN_INTERVAL, KEEP_LOCK = 60, True\n'
            f'ONE_INSTANCE = {consul.one_instance()}\n'
            "LIVENESS = {'backend': 'jobslib.liveness.consul.ConsulLiveness'}\n")
        yield tmp_path


def shown_commands(page: str, *chosen: str) -> Iterator[tuple[list[str], str]]:
    """Yield the *chosen* commands of a page's consoles, with their output."""
    block: Block
    for block in blocks(DOCS / page, 'console'):
        code = re.sub(r'^\w+@\w+\$', '$', block.code, flags=re.MULTILINE)
        if PROMPT.match(code):
            for line, (words, shown) in zip(
                    re.findall(r'^\$ (.*)', code, re.M), commands(code),
                    strict=True):
                if {*chosen} & {*words} and '|' not in words:
                    yield shlex.split(line)[1:], shown


def of_people(text: str) -> str:
    """Return *text* without what changes, machines included."""
    return re.sub(r'\S+ \(pid \.+\)|\bon \S+\)', 'HOLDER', masked(text))


@pytest.mark.parametrize(('page', 'chosen'), [
    ('guide/operating.rst', ['pause', 'resume']),
    ('guide/monitoring.rst', ['check-liveness']),
])
def test_commands_do_as_shown(
        settings: pathlib.Path, page: str, chosen: list[str]) -> None:
    """The commands that a page shows write what it shows."""
    seen = 0
    with Job(settings, '-s', 'settings', 'tick.Tick') as job:
        job.wait_for('run succeeded')
        # That is noted beside the runs, a moment later.
        until(lambda: runjob(settings, [
            '-s', 'settings', 'check-liveness', '--max-age', '300',
            'tick.Tick']).returncode == 0, 'for the liveness')
        for words, shown in shown_commands(page, *chosen):
            done = runjob(settings, words)
            assert done.returncode == 0, done.stderr
            assert of_people(done.stdout) == of_people(shown)
            seen += 1
    assert seen == len(chosen)


def test_handover_does_as_shown(settings: pathlib.Path) -> None:
    """The job moves to the standby, with the line that the first page shows."""
    [(words, shown)] = shown_commands('start.rst', 'handover')
    with Job(settings, '-s', 'settings', 'tick.Tick') as holder:
        holder.wait_for('run succeeded')
        with Job(settings, '-s', 'settings', 'tick.Tick') as standby:
            standby.wait_for('not run')
            until(lambda: json.loads(runjob(settings, [
                '-s', 'settings', 'status', '--json', 'tick.Tick',
            ]).stdout)['standbys'], 'for the standby to be seen')
            done = runjob(settings, words)
            assert done.returncode == 0, done.stderr
            standby.wait_for('the lock is acquired')
    assert of_people(done.stdout) == of_people(shown)


def test_version_is_shown() -> None:
    """The version that the first page shows is this one's."""
    assert (f'   $ runjob --version\n   jobslib {jobslib.__version__}\n'
            in (DOCS / 'start.rst').read_text())
