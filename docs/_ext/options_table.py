"""One table of all options, made from their declarations.

    .. options-table::

       jobslib.config.Config | The loop, in the settings module

Each line names a ConfigGroup and the heading above its options.  An option
that an earlier group has already shown is left out.  The role ``setting``
links to an option, by its name in the settings or, for two of one name, as
``ConsulLock.grace``.
"""

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from jobslib.config import BackendConfig, ConfigGroup, option
from jobslib.imports import import_module

__all__ = ['OptionsTable', 'setup']

HEADINGS = ('Option', 'Type and bounds', 'Default', 'Meaning')
WIDTHS = (46, 16, 14, 24)


class OptionsTable(SphinxDirective):
    """The directive ``options-table``."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        group = nodes.tgroup(cols=len(HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in WIDTHS]
        group += nodes.thead('', nodes.row('', *(
            nodes.entry('', nodes.paragraph(text=text)) for text in HEADINGS)))
        body = nodes.tbody()
        seen: set[option[object]] = set()
        for line in self.content:
            path, _, heading = (part.strip() for part in line.partition('|'))
            if path:
                body += list(self._rows(find_group(path), heading, seen))
        group += body
        return [nodes.table('', group, classes=['options', 'colwidths-given'])]

    def _rows(self, config: type[ConfigGroup], heading: str,
              seen: set[option[object]]) -> Iterator[nodes.row]:
        yield nodes.row('', nodes.entry(
            '', self._parse(heading), morecols=len(HEADINGS) - 1,
            classes=['group']))
        for declared in config.declared().values():
            if declared not in seen and declared.function is None:
                seen.add(declared)
                yield self._row(config, declared)

    def _row(self, config: type[ConfigGroup], declared: option[object]) -> nodes.row:
        setting = setting_name(config, declared)
        names = [setting, declared.env]
        if declared.flag:
            names.append(' '.join(filter(None, (
                declared.flag, declared.metavar))))
        block = nodes.line_block('', *(
            nodes.line('', '', nodes.literal(text=name))
            for name in names if name))
        self._add_target(block, config, setting)
        cells: list[nodes.Node] = [
            block, nodes.paragraph(text=show_allowed(declared)),
            nodes.paragraph('', '', show_default(declared)),
            self._parse(declared.help)]
        return nodes.row('', *(
            nodes.entry('', cell, classes=[name.split()[0].lower()])
            for name, cell in zip(HEADINGS, cells, strict=True)))

    def _add_target(self, node: nodes.Element, config: type[ConfigGroup],
                    setting: str) -> None:
        """Make the role ``setting`` lead to *node*."""
        domain = self.env.domains.standard_domain
        qualified = f'{config.__qualname__.split(".")[0]}.{setting}'
        node_id = nodes.make_id(f'setting-{qualified}')
        node['ids'].append(node_id)
        for name in (setting, qualified):
            if ('setting', name) not in domain.objects:
                domain.note_object('setting', name, node_id)

    def _parse(self, text: str) -> nodes.Node:
        paragraph = nodes.paragraph()
        lines = StringList([text], source=self.get_source_info()[0])
        parent = nodes.Element()
        self.state.nested_parse(lines, self.content_offset, parent)
        for child in parent.children:
            paragraph += child.children
        return paragraph


def find_group(path: str) -> type[ConfigGroup]:
    """Return the group with this dotted path; it may be a nested class."""
    parts = path.split('.')
    classes = next(i for i, part in enumerate(parts) if part[:1].isupper())
    found: Any = import_module('.'.join(parts[:classes]))
    for part in parts[classes:]:
        found = getattr(found, part)
    assert issubclass(found, ConfigGroup), path
    return found  # type: ignore[no-any-return]


def setting_name(config: type[ConfigGroup], declared: option[object]) -> str:
    """Return the name that the option has in the settings."""
    if issubclass(config, BackendConfig):
        return f"{config.setting}['{declared.setting_name({})}']"
    is_of_backend = config.__name__ == 'OptionsConfig'
    return declared.setting_name({} if is_of_backend else None)


def show_allowed(declared: option[object]) -> str:
    """Return type and bounds."""
    kind: Any = declared.attrtype
    is_group = isinstance(kind, type) and issubclass(kind, ConfigGroup)
    return 'a dict' if is_group else declared.allowed()


def show_default(declared: option[object]) -> nodes.Node:
    """Return the default, a dash where there is none."""
    if declared.default is None:
        return nodes.Text('–')
    is_number = isinstance(declared.default, float)
    return nodes.literal(
        text=f'{declared.default:g}' if is_number
        else f'{declared.default}' or "''")


def skip_option(app: Sphinx, what: str, name: str, obj: Any, skip: bool,
                options: Any) -> bool | None:
    """Leave to the table what is an option."""
    return True if isinstance(obj, option) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive and the role known to Sphinx."""
    app.setup_extension('sphinx.ext.autodoc')
    app.connect('autodoc-skip-member', skip_option)
    app.add_directive('options-table', OptionsTable)
    app.add_crossref_type('setting', 'setting')
    return {'parallel_read_safe': True, 'version': '1'}
