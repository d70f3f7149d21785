"""The documentation: its code runs, and it does not lag behind the code."""

import ast
import json
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest
from pages import (
    DOCS,
    PACKAGE,
    PAGES,
    ROOT,
    blocks,
    commands,
    masked,
    name,
    run,
    write_files,
)

from jobslib.exitcodes import ExitCode

LINK = re.compile(r'\[[^]]*\]\((?P<target>[^)\s]+)\)')


@pytest.mark.parametrize(
    'page', [page for page in PAGES if blocks(page, 'python')], ids=name)
def test_python_runs(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The Python of a page runs, from its beginning to its end."""
    files = write_files(page, tmp_path)
    code = [block.code for block in blocks(page, 'python')
            if 'not-run' not in block.options
            and not (block.caption or '').startswith('test_')]
    (tmp_path / 'page.py').write_text('\n\n'.join(code))
    run(tmp_path, 'page.py')
    tests = [file for file in files if file.startswith('test_')]
    if tests:
        run(tmp_path, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *tests)


@pytest.mark.parametrize(
    'page', [page for page in PAGES if blocks(page, 'python')], ids=name)
def test_python_compiles(page: pathlib.Path) -> None:
    """What cannot be run here is Python nevertheless."""
    for block in blocks(page, 'python'):
        ast.parse(block.code)


@pytest.mark.parametrize(
    'page', [page for page in PAGES if 'settings.py' in page.read_text()],
    ids=name)
def test_settings_are_accepted(
        page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The settings modules of a page name options that there are."""
    write_files(page, tmp_path)
    settings = [path.relative_to(tmp_path).with_suffix('')
                for path in tmp_path.rglob('*settings.py')]
    assert settings
    for path in settings:
        run(tmp_path, '-c', textwrap.dedent(f'''
            import {'.'.join(path.parts)} as settings
            from jobslib import BaseTask, Config
            config = Config(settings, None, BaseTask)
            assert config.one_instance.options
        '''))


def test_first_task_does_as_shown(tmp_path: pathlib.Path) -> None:
    """The commands of the first page write what the page shows."""
    page = DOCS / 'start.rst'
    write_files(page, tmp_path)
    for block in blocks(page, 'console'):
        for command, shown in commands(block.code):
            if command[:1] == ['runjob'] and '--run-once' in command:
                written = run(tmp_path, '-m', 'jobslib', *command[1:])
                assert masked(written) == masked(shown)


def test_readme_links_lead_somewhere() -> None:
    """What the README and the changelog link to is there, headings too."""
    for file in (ROOT / 'README.md', ROOT / 'CHANGELOG.md'):
        targets = [found['target'] for found in LINK.finditer(
            file.read_text())]
        for target in targets:
            if not re.match(r'https?:', target):
                path, _, anchor = target.partition('#')
                linked = ROOT / path if path else file
                assert linked.exists(), target
                assert not anchor or anchor in anchors(linked), target


def anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of *page*."""
    text = page.read_text()
    found = re.findall(r'^#+ (.*)$', text, re.M) if page.suffix == '.md' else (
        re.findall(r'^(\S.*)\n[-=~]{3,}$', text, re.M))
    return {re.sub(r'[^\w -]', '', each).strip().lower().replace(' ', '-')
            for each in found}


def test_broken_links_are_found(tmp_path: pathlib.Path) -> None:
    """The check of the pages that were built finds what leads nowhere."""
    (tmp_path / 'one.html').write_text(
        '<p id="here"><a href="#here"><a href="two.html#there">'
        '<a href="https://example.com/#any"><img src="gone.svg">')
    (tmp_path / 'two.html').write_text('<a href="one.html#here">')
    done = subprocess.run(
        [sys.executable, str(DOCS / 'check_links.py'), str(tmp_path)],
        capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        'one.html: gone.svg', 'one.html: two.html#there']


def test_readme_links_into_each_part() -> None:
    """The README links to every page of the documentation."""
    text = (ROOT / 'README.md').read_text()
    missing = [name(page) for page in PAGES
               if page.name != 'index.rst' and f'docs/{name(page)}' not in text]
    assert not missing


def test_readme_settings_are_accepted() -> None:
    """The Python of the README is Python."""
    text = (ROOT / 'README.md').read_text()
    for code in re.findall(r'^```python\n(.*?)^```', text, re.M | re.S):
        ast.parse(code)


def test_every_log_message_is_explained() -> None:
    """What the package logs stands in the page about log messages."""
    text = (DOCS / 'reference' / 'logs.rst').read_text()
    messages = [message for path in PACKAGE.rglob('*.py')
                for message in log_messages(path)]
    assert len(messages) > 10
    missing = [message for message in messages if f'``{message}' not in text]
    assert not missing


def log_messages(path: pathlib.Path) -> list[str]:
    """Return the messages that a module logs, their parts as ellipses."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args and is_logging(node.func):
            message = node.args[0]
            if isinstance(message, ast.JoinedStr):
                found.append(''.join(
                    str(part.value) if isinstance(part, ast.Constant) else '…'
                    for part in message.values))
            elif isinstance(message, ast.Constant):
                found.append(re.sub(
                    r'%[.\d]*[sdfg]', '…', str(message.value)))
        elif (isinstance(node, ast.keyword) and node.arg == 'said'
              and isinstance(node.value, ast.Tuple)):
            # What is logged for whoever gives the words.
            found += [str(each.value) for each in node.value.elts
                      if isinstance(each, ast.Constant)]
    return [each for each in found if re.search('[a-z]', each)]


def is_logging(function: ast.expr) -> bool:
    """Return whether *function* is a method of a logger, or the keeper's."""
    if isinstance(function, ast.Attribute):
        called_on = ast.unparse(function.value)
        return called_on.endswith('logger') and function.attr in (
            'debug', 'info', 'warning', 'error', 'exception', 'critical')
    return isinstance(function, ast.Name) and function.id == '_log'


def test_shown_check_is_one(tmp_path: pathlib.Path) -> None:
    """What the guide shows of a check are lines that the command prints."""
    text = (DOCS / 'guide' / 'operating.rst').read_text()
    shown = [re.split(r'  +', line.strip())
             for block in blocks(DOCS / 'guide' / 'operating.rst', 'text')
             for line in block.code.splitlines() if '  ' in line]
    assert len(shown) > 20 and 'destroy the session' in text
    # What the status shows is looked at below.
    shown = shown[:[line[0] for line in shown].index('FIELD')]
    (tmp_path / 'tick.py').write_text(
        'from jobslib import BaseTask\n'
        'class Tick(BaseTask):\n    def task(self): pass\n')
    written = run(tmp_path, '-c', textwrap.dedent('''
        from jobslib.main import main
        from jobslib.testing import ConsulStandIn
        with ConsulStandIn() as consul:
            port = str(consul.address[1])
            import os
            os.environ['CONSUL_HTTP_ADDR'] = '127.0.0.1:' + port
            os.environ['JOBSLIB_ONE_INSTANCE_BACKEND'] = (
                'jobslib.oneinstance.consul.ConsulLock')
            assert main(['check', '--all', 'tick.Tick']) == 0
    '''))
    begins = {re.split(r'  +', line)[0] for line in written.splitlines()}
    assert {line[0] for line in shown} <= begins


def test_shown_status_is_one(tmp_path: pathlib.Path) -> None:
    """What the guide shows of a status, asked in a run, has the fields of a
    real one."""
    [shown] = [block.code for block in blocks(
        DOCS / 'guide' / 'operating.rst', 'text') if 'FIELD' in block.code]
    (tmp_path / 'tick.py').write_text(
        'import subprocess, sys\n'
        'from jobslib import BaseTask\nclass Tick(BaseTask):\n'
        '    def task(self):\n'
        '        subprocess.run([sys.executable, "-m", "jobslib", "--schedule",\n'
        '            "@yearly", "status", "tick.Tick"], check=True)\n')
    written = run(tmp_path, '-m', 'jobslib', '--run-once', '--schedule',
                  '@yearly', 'tick.Tick')

    def begins(text: str) -> list[str]:
        found = [re.split(r'  +', line)[0] for line in text.splitlines()]
        return found[found.index('FIELD'):found.index('RUN') + 1]
    assert begins(shown) == begins(written)


def test_every_consul_variable_is_explained() -> None:
    """The variables of Consul's tools that count stand in the table."""
    table = (DOCS / 'reference' / 'options.rst').read_text()
    code = (PACKAGE / 'consul' / 'connection.py').read_text()

    def names(text: str) -> set[str]:
        return set(re.findall(r'\bCONSUL_[A-Z_]+[A-Z]\b', text))
    assert names(code) == names(table)


def test_readme_names_the_exit_codes() -> None:
    """The README's table of exit codes is that of the code."""
    text = (ROOT / 'README.md').read_text()
    rows = re.findall(r'^\| (\d+) \| ', text, re.MULTILINE)
    assert [int(row) for row in rows] == [int(code) for code in ExitCode]


def test_shown_record_is_one(tmp_path: pathlib.Path) -> None:
    """The owner record that the guide shows has the fields of a real one."""
    text = (DOCS / 'guide' / 'production.rst').read_text()
    [shown] = [json.loads(line) for line in text.splitlines()
               if line.startswith('   {"fqdn"')]
    written = run(tmp_path, '-c', textwrap.dedent('''
        import json
        from jobslib.oneinstance.consul import ConsulLock
        from jobslib.testing import make_lock
        lock = make_lock(ConsulLock, 'any')
        print(json.dumps(lock.make_record()))
    '''))
    assert set(shown) == set(json.loads(written))
