"""Configuration of the documentation, see sphinx-build."""

import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / '_ext'), str(HERE.parent)]

import jobslib  # noqa: E402

project = 'jobslib'
copyright = 'the authors of jobslib'
version = release = jobslib.__version__

extensions = [
    'myst_parser',
    'options_table',
    'sphinx.ext.autodoc',
    'sphinxarg.ext',
    'timings',
]
exclude_patterns = ['_build', '_ext', '_pictures', 'requirements.txt']
# Quotes and ellipses; two dashes begin an option.
smartquotes_action = 'qe'
nitpicky = True
# Annotations name classes without their modules, and two modules may have a class
# of one name: Pause, for instance.
suppress_warnings = ['ref.python']
# Nothing is looked up in the net, so names of the standard library lead
# nowhere; nor do those of what is not public.
nitpick_ignore_regex = [
    (r'py:.*', r'(argparse|asyncio|collections|contextlib|datetime|enum|faulthandler|'
               r'functools|http|logging|types|typing)(\..*)?'),
    (r'py:.*', r'[A-Z][A-Za-z]*(Error|Interrupt|Exception)'),
    (r'py:class', r'Any|Callable|Given|Iterable|Iterator|Mapping|ModuleType|Self'),
    (r'py:class', r'dict\[str'),
    (r'py:class', r'Console|ConsulClient|Document|Lease|Parser|ReportingContext|'
                  r'ReportingTask|ServiceClient|SuccessWriter|Table'),
    (r'py:class', r'(.*\.)?(Control|Endpoint|History|Lock|Observer|'
                  r'OwnerRecord|Run)'),
    (r'py:class', r'[RT]|Metrics?|Callable\[\[\]'),
]

autodoc_default_options = {'members': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72

html_theme = 'furo'
html_title = f'jobslib {version}'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    'light_css_variables': {
        'color-brand-primary': '#0b5c7a',
        'color-brand-content': '#0b5c7a',
    },
    'dark_css_variables': {
        'color-brand-primary': '#6cc5e8',
        'color-brand-content': '#6cc5e8',
    },
}
pygments_style = 'friendly'
pygments_dark_style = 'github-dark'


def draw_dashes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make dashes of those that autodoc puts before a description."""
    for text in list(doctree.findall(nodes.Text)):
        if text == ' -- ':
            text.parent.replace(text, nodes.Text(' – '))


def hide_overloads(module: str) -> None:
    """Have the signatures of *module* shown as they are at run time.

    Its overloads are for type checkers: for people, one says it all.
    """
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.analyze()
    analyzer.overloads.clear()


def hide_arguments(app: Sphinx, what: str, name: str, found: object,
                   options: Any, signature: str | None,
                   returns: str | None) -> tuple[str, None] | None:
    """Have protocols shown without the arguments of a class: none is made."""
    return ('', None) if getattr(found, '_is_protocol', False) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect what is above."""
    hide_overloads('jobslib.options')
    app.connect('autodoc-process-signature', hide_arguments)
    app.connect('doctree-resolved', draw_dashes)
    return {'parallel_read_safe': True}
