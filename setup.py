"""Packaging of jobslib."""

import os
import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).resolve().parent


def read_version() -> str:
    """Return the version that the package names."""
    text = (HERE / 'jobslib' / '__init__.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE)
    assert found, 'jobslib/__init__.py names no version'
    return found[1]


def project_urls() -> dict[str, str]:
    """Return the links of the packages, by what the environment calls home."""
    home = os.environ.get('PROJECT_HOME', '').rstrip('/')
    if not home:
        return {}
    return {'Source': home, 'Issues': f'{home}/issues',
            'Changelog': f'{home}/blob/HEAD/CHANGELOG.md',
            'Documentation': f'{home}/blob/HEAD/docs/index.rst'}


setup(
    name='jobslib',
    version=read_version(),
    description='Runs Python jobs that must be alive on exactly one of '
                'several machines.',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    project_urls=project_urls(),
    license='BSD-3-Clause',
    license_files=['LICENSE'],
    packages=find_packages(include=['jobslib', 'jobslib.*']),
    package_data={'jobslib': ['py.typed']},
    python_requires='>=3.11',
    # rich: tables of the commands and progress bars, in colour on a terminal,
    # which it knows the width and the abilities of; loaded when one is shown.
    # cronsim: cron expressions; tzdata: the time zones, where the system has
    # none; both are loaded when a job has a calendar.
    install_requires=['cronsim>=2.6', 'py-consul>=1.7', 'requests>=2.31',
                      'rich>=13', 'tzdata'],
    # The clients of their makers; influxdb-client is the one of InfluxDB's
    # that is kept up and writes to 1.8, 2, 3 and the cloud.
    extras_require={
        'prometheus': ['prometheus-client>=0.20'],
        'influxdb': ['influxdb-client>=1.44'],
        # The script for the shell, made from the parser; a run knows nothing
        # of it.
        'completion': ['shtab>=1.6'],
    },
    entry_points={'console_scripts': ['runjob = jobslib.main:main']},
    classifiers=[
        'Development Status :: 5 - Production/Stable',
        'Environment :: Console',
        'Intended Audience :: Developers',
        'Intended Audience :: System Administrators',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: System :: Distributed Computing',
        'Typing :: Typed',
    ],
)
