"""Packaging of jobslib."""

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


setup(
    name='jobslib',
    version=read_version(),
    description='Runs Python jobs that must be alive on exactly one of '
                'several machines.',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='BSD-3-Clause',
    license_files=['LICENSE'],
    packages=find_packages(include=['jobslib', 'jobslib.*']),
    package_data={'jobslib': ['py.typed']},
    python_requires='>=3.11',
    # rich: the tables of the commands, in colour on a terminal, which it
    # knows the width and the abilities of; used by commands alone.
    install_requires=['py-consul>=1.7', 'requests>=2.31', 'rich>=13'],
    # The clients of their makers; influxdb-client is the one of InfluxDB's
    # that is kept up and writes to 1.8, 2, 3 and the cloud.
    extras_require={
        'prometheus': ['prometheus-client>=0.20'],
        'influxdb': ['influxdb-client>=1.44'],
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
