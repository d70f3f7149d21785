"""The files for process managers: what can be told without running them."""

import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from jobslib.config import Config, ConfigGroup
from jobslib.oneinstance.consul import ConsulLock
from jobslib.oneinstance.file import FileLock
from jobslib.tasks import BaseTask

# Without its types, which nothing else here would need.
yaml: Any = importlib.import_module('yaml')

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / 'examples'
UNITS = sorted(EXAMPLES.glob('systemd/*.*'))
UNIT = EXAMPLES / 'systemd' / 'jobslib@.service'
DOCKERFILE = EXAMPLES / 'container' / 'Dockerfile'
COMPOSE = EXAMPLES / 'container' / 'compose.yaml'
DEPLOYMENT = EXAMPLES / 'kubernetes' / 'deployment.yaml'
FILES = [*UNITS, DOCKERFILE, COMPOSE, DEPLOYMENT]

VARIABLE = re.compile(r'\bJOBSLIB_[A-Z_]+\b')

#: How long a stop takes at most with the timings that are the default, in
#: seconds: the grace, the release that is tried by the job, and by the keeper.
LONGEST_STOP = 3 + 15 + 15 + 2


def variables(group: type[ConfigGroup]) -> Iterator[str]:
    """Return the environment variables of the options in *group*."""
    for declared in group.declared().values():
        if declared.env:
            yield declared.env
        if isinstance(declared.attrtype, type) and issubclass(
                declared.attrtype, ConfigGroup):
            yield from variables(declared.attrtype)


def instructions(path: pathlib.Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, in order."""
    text = re.sub(r'^#.*\n', '', path.read_text(), flags=re.MULTILINE)
    lines = text.replace('\\\n', ' ').splitlines()
    return [(words[0], ' '.join(words[1:]))
            for words in map(str.split, lines) if words]


def directives(path: pathlib.Path) -> dict[str, str]:
    """Return the directives of a unit; of several, the last."""
    return dict(line.split('=', 1) for line in path.read_text().splitlines()
                if '=' in line and not line.startswith('#'))


@pytest.fixture
def container() -> dict[str, Any]:
    """The container of the deployment's pods."""
    found: list[dict[str, Any]] = pod()['containers']
    assert len(found) == 1
    return found[0]


def pod() -> dict[str, Any]:
    """Return the specification of the deployment's pods."""
    found: dict[str, Any] = yaml.safe_load(
        DEPLOYMENT.read_text())['spec']['template']['spec']
    return found


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_variables_are_options(path: pathlib.Path) -> None:
    """The variables in the files are those of options that there are."""
    known = {*variables(Config), *variables(ConsulLock.OptionsConfig),
             *variables(FileLock.OptionsConfig), 'JOBSLIB_SETTINGS_MODULE'}
    assert {*VARIABLE.findall(path.read_text())} <= known


@pytest.mark.skipif(shutil.which('systemd-analyze') is None,
                    reason='systemd is not installed')
def test_unit_is_accepted(tmp_path: pathlib.Path) -> None:
    """systemd understands the unit, and has nothing to remark on it."""
    unit = tmp_path / 'jobslib@.service'
    unit.write_text(UNIT.read_text().replace(
        '/opt/jobs/.venv/bin/runjob', sys.executable))
    drop_ins = tmp_path / 'jobslib@.service.d'
    drop_ins.mkdir()
    for path in UNITS:
        if path.suffix == '.conf':
            shutil.copy(path, drop_ins)
    done = subprocess.run(
        ['systemd-analyze', 'verify', '--man=no', '--recursive-errors=no',
         str(tmp_path / 'jobslib@tick.Tick.service')],
        env=os.environ | {'SYSTEMD_UNIT_PATH': f'{tmp_path}:'},
        capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_unit_leaves_the_keeper_alone() -> None:
    """The keeper ignores what the unit sends, and has time to leave last."""
    from jobslib.keeper import keeper
    unit = directives(UNIT)
    assert unit['KillMode'] == 'control-group'
    assert unit['WatchdogSignal'] in {each.name for each in keeper.IGNORED}
    assert int(unit['TimeoutStopSec']) > LONGEST_STOP
    assert unit['SuccessExitStatus'] == '143'
    assert unit['RestartPreventExitStatus'] == '2'


def test_image_runs_the_job() -> None:
    """The job gets the signals, is not root, and has an init above it."""
    found = dict(instructions(DOCKERFILE))
    assert json.loads(found['ENTRYPOINT']) == ['tini', '--', 'runjob']
    assert issubclass(task_of(json.loads(found['CMD'])), BaseTask)
    assert found['USER'] == '10001:10001'
    assert found['STOPSIGNAL'] == 'SIGTERM'
    check = json.loads(found['HEALTHCHECK'].partition(' CMD ')[2])
    assert check[:2] == ['runjob', 'check-liveness']


def test_compose_has_two_workers() -> None:
    """There are two workers of one kind, with time to stop."""
    services = yaml.safe_load(COMPOSE.read_text())['services']
    assert {*services} == {'consul', 'worker-1', 'worker-2'}
    for name in ('worker-1', 'worker-2'):
        worker = services[name]
        assert worker['hostname'] == name
        assert int(worker['stop_grace_period'].rstrip('s')) > LONGEST_STOP
        assert ROOT / worker['build']['dockerfile'] == DOCKERFILE
        assert (COMPOSE.parent / worker['build']['context']).resolve() == ROOT


def test_deployment_has_a_standby() -> None:
    """There are two pods of one job, with time to stop, and without rights."""
    spec = yaml.safe_load(DEPLOYMENT.read_text())['spec']
    assert spec['replicas'] == 2
    assert (spec['selector']['matchLabels']
            == spec['template']['metadata']['labels'])
    assert pod()['terminationGracePeriodSeconds'] > LONGEST_STOP
    assert pod()['securityContext']['runAsNonRoot'] is True
    user = dict(instructions(DOCKERFILE))['USER']
    assert user == '{runAsUser}:{runAsGroup}'.format(**pod()['securityContext'])


def test_deployment_mounts_the_token(container: dict[str, Any]) -> None:
    """The token is a file of a secret, where the job looks for it."""
    given = {each['name']: each['value'] for each in container['env']}
    mount = container['volumeMounts'][0]
    path = pathlib.Path(given['JOBSLIB_ONE_INSTANCE_CONSUL_TOKEN_FILE'])
    assert path.parent == pathlib.Path(mount['mountPath'])
    volumes = {each['name']: each for each in pod()['volumes']}
    assert 'secret' in volumes[mount['name']]
    assert issubclass(task_of(container['args']), BaseTask)


def test_deployment_has_probes(container: dict[str, Any]) -> None:
    """Pods are asked, and restarted long after they are not ready."""
    ages = []
    for name in ('readinessProbe', 'livenessProbe'):
        command = container[name]['exec']['command']
        assert command[:3] == ['runjob', 'check-liveness', '--max-age']
        assert issubclass(task_of(command[-1:]), BaseTask)
        ages.append(float(command[3]))
    assert ages[0] < ages[1]


def task_of(args: list[str]) -> type[Any]:
    """Return the task that *args* end with."""
    module, _, name = args[-1].rpartition('.')
    # Not a part of what is installed.
    sys.path.append(str(ROOT))
    try:
        found: type[Any] = getattr(importlib.import_module(module), name)
    finally:
        sys.path.remove(str(ROOT))
    return found
