"""The documentation: its code runs, and it does not lag behind the code."""

import ast
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys
import textwrap
from typing import Any, NamedTuple

import pytest
from support import DEADLINE, environment

import jobslib
from jobslib.exitcodes import ExitCode

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(
    page for page in DOCS.rglob('*.rst') if '_build' not in page.parts)
PACKAGE = pathlib.Path(jobslib.__file__).parent

BLOCK = re.compile(
    r'^\.\. code-block:: (?P<language>\w+)\n'
    r'(?P<options>(?:   :.*\n)*)\n'
    r'(?P<code>(?:   .*\n|\n)+)', re.MULTILINE)
LINK = re.compile(r'\[[^]]*\]\((?P<target>[^)\s]+)\)')
# What differs from run to run, and from machine to machine.
CHANGING = re.compile(r'lock file \S+:|from \S+, fencing|\d+')


class Block(NamedTuple):
    """A block of code in a page."""

    language: str
    options: str
    code: str

    @property
    def caption(self) -> str | None:
        """The name of the file that the block is."""
        found = re.search(r':caption: (\S+)', self.options)
        return found[1] if found else None


def blocks(page: pathlib.Path, language: str) -> list[Block]:
    """Return the blocks of *page* in this language."""
    found = [Block(each['language'], each['options'],
                   textwrap.dedent(each['code']))
             for each in BLOCK.finditer(page.read_text() + '\n')]
    return [block for block in found if block.language == language]


def name(page: pathlib.Path) -> str:
    """Return how a test calls *page*."""
    return str(page.relative_to(DOCS))


def write_files(page: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Write the blocks that are files into *folder*; return their names."""
    files = []
    for block in blocks(page, 'python'):
        if block.caption:
            path = folder / block.caption
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.code)
            files.append(block.caption)
    return files


def run(folder: pathlib.Path, *args: str) -> str:
    """Run Python in *folder*, which must succeed; return what it wrote."""
    locks = folder / 'locks'
    locks.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, text=True,
        env=environment(locks), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=20 * DEADLINE)
    assert done.returncode == 0, done.stdout
    return done.stdout


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


def commands(text: str) -> list[tuple[list[str], str]]:
    """Return the commands of a console, each with what it wrote."""
    parts = re.split(r'^\$ (.*)\n', text.strip() + '\n', flags=re.MULTILINE)
    return [(command.split(), output)
            for command, output in zip(parts[1::2], parts[2::2], strict=True)]


def masked(text: str) -> str:
    """Return *text* without what changes."""
    return CHANGING.sub('...', text)


def test_readme_links_lead_somewhere() -> None:
    """Every file that the README and the changelog link to is there."""
    for file in (ROOT / 'README.md', ROOT / 'CHANGELOG.md'):
        targets = [found['target'] for found in LINK.finditer(
            file.read_text())]
        for target in targets:
            if not re.match(r'https?:|#', target):
                assert (ROOT / target.partition('#')[0]).exists(), target


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
    return found


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
        'from jobslib import BaseTask\nclass Tick(BaseTask):\n    pass\n')
    written = run(tmp_path, '-c', textwrap.dedent('''
        from jobslib.main import main
        from jobslib.testing import ConsulStandIn
        with ConsulStandIn() as consul:
            port = str(consul.address[1])
            import os
            os.environ['CONSUL_HTTP_ADDR'] = '127.0.0.1:' + port
            os.environ['JOBSLIB_ONE_INSTANCE_BACKEND'] = (
                'jobslib.oneinstance.consul.ConsulLock')
            assert main(['check', 'tick.Tick']) == 0
    '''))
    begins = {re.split(r'  +', line)[0] for line in written.splitlines()}
    assert {line[0] for line in shown} <= begins


def test_shown_status_is_one(tmp_path: pathlib.Path) -> None:
    """What the guide shows of a status has the fields of a real one."""
    [shown] = [block.code for block in blocks(
        DOCS / 'guide' / 'operating.rst', 'text') if 'FIELD' in block.code]
    (tmp_path / 'tick.py').write_text(
        'from jobslib import BaseTask\nclass Tick(BaseTask):\n'
        '    def task(self):\n        pass\n')
    run(tmp_path, '-m', 'jobslib', '--run-once', 'tick.Tick')
    written = run(tmp_path, '-m', 'jobslib', 'status', 'tick.Tick')

    def begins(text: str) -> list[str]:
        found = [re.split(r'  +', line)[0] for line in text.splitlines()]
        return found[:found.index('RUN') + 1]
    assert begins(shown) == begins(written)


def test_every_consul_variable_is_explained() -> None:
    """The variables of Consul's tools that count stand in the table."""
    table = (DOCS / 'reference' / 'options.rst').read_text()
    code = (PACKAGE / 'oneinstance' / 'connection.py').read_text()

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


# What works behind the names in the reference; nobody else imports it.
INTERNAL = re.compile(r"""jobslib\.(
    bar
    | commands\.(asking | check_liveness | handover | jobs | pause | release
                 | resume | status)
    | oneinstance\.(asking | client | consulview | guard | keeper
                    | keeperconsul | lease | lockfolder | page | processes
                    | record | transport)
    | testing\.(consul | contract)_\w+
    | testing\.fork
)""", re.VERBOSE)
DIRECTIVE = re.compile(
    r'^\.\. auto(?P<kind>\w+):: (?P<path>[\w.]+)\n'
    r'(?P<options>(?:   :.*\n)*)', re.MULTILINE)


def public_modules() -> list[str]:
    """Return the modules of the package that say what is public in them."""
    found = pkgutil.walk_packages(jobslib.__path__, 'jobslib.')
    names = ['jobslib', *(module.name for module in found)]
    return [each for each in names
            if each != 'jobslib.__main__' and not INTERNAL.fullmatch(each)]


def public_objects(module: str) -> dict[str, Any]:
    """Return the classes and functions that *module* says are public."""
    loaded = importlib.import_module(module)
    named = {each: getattr(loaded, each) for each in loaded.__all__}
    return {each: found for each, found in named.items()
            if getattr(found, '__module__', '').startswith('jobslib')
            and (inspect.isclass(found) or inspect.isfunction(found))}


def documented_objects() -> set[Any]:
    """Return what the directives of the reference's page show."""
    found: set[Any] = set()
    pages = [DOCS / 'reference' / 'api.rst', DOCS / 'reference/exitcodes.rst']
    for text in (page.read_text() for page in pages):
        for each in DIRECTIVE.finditer(text):
            if each['kind'] != 'module':
                module, _, attribute = each['path'].rpartition('.')
                loaded = importlib.import_module(module)
                found.add(getattr(loaded, attribute))
            elif ':no-members:' not in each['options']:
                found |= set(public_objects(each['path']).values())
    return found


@pytest.mark.parametrize('module', public_modules())
def test_public_names_are_in_the_reference(module: str) -> None:
    """What a module says is public stands in the reference."""
    documented = documented_objects()
    missing = [each for each, found in public_objects(module).items()
               if found not in documented]
    assert not missing


@pytest.mark.parametrize('module', public_modules())
def test_public_names_say_what_they_are(module: str) -> None:
    """What is public has a docstring, and so have its public methods."""
    silent = [f'{each}.{name}' for each, found in public_objects(module).items()
              for name, member in [('', found), *own_members(found)]
              if not inspect.getdoc(member)]
    assert not silent


def own_members(found: Any) -> list[tuple[str, Any]]:
    """Return the public methods and properties that are jobslib's own."""
    return [(name, getattr(owner, name))
            for owner in getattr(found, '__mro__', ())
            if owner.__module__.startswith('jobslib')
            for name, member in vars(owner).items()
            if not name.startswith('_') and (
                inspect.isfunction(member) or isinstance(
                    member, property | classmethod | staticmethod))]
