"""Figures and drawings of the lease's arithmetic, from Timings itself.

A drawing is a list of lanes with bars, and of numbered moments:

    .. timeline:: A caption
       :ttl: 15
       :lock-delay: 15

       lane | 0..{stop_at} run runs | {stop_at}..{kill_at} grace
       @ {stop_at} what happens at this moment

A bar is ``start..end style text``; times are seconds, sums of numbers and of
the names in :func:`figures`.  A table is a list of wishes and settings, which
are arguments of :meth:`Timings.derive`:

    .. timings-table::

       the default | ttl=15 lock_delay=15
"""

import html
import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from jobslib.keeper.timings import Timings

__all__ = ['Timeline', 'TimingsTable', 'figures', 'setup']

TOP, LANE, BAR = 30.0, 38.0, 26.0
# Where the lanes begin and end, and how wide the drawing is: for a screen, and
# for that of a phone.  The style sheet shows one of them.
SIZES = {'wide': (118.0, 702.0, 720), 'narrow': (58.0, 346.0, 360)}
# The width of a letter, about.
LETTER = 6.6
HEADINGS = ('Wish', 'Settings', 'Outage that disturbs nothing',
            'Dead machine: free after')
WIDTHS = (34, 26, 20, 20)


def figures(timings: Timings) -> dict[str, float]:
    """Return the names that a drawing may use, all in seconds."""
    known = {name: value for name, value in vars(timings).items()
             if value is not None}
    return known | {
        'slack': timings.slack, 'dead_machine': timings.dead_machine,
        'session_end': timings.dead_machine - timings.lock_delay,
        'kill_at': timings.window - timings.kill,
        'stop_at': timings.window - timings.kill - timings.grace}


class Timeline(SphinxDirective):
    """The directive ``timeline``."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {'ttl': float, 'lock-delay': float, 'check-ttl': float}

    def run(self) -> list[nodes.Node]:
        self.figures = figures(Timings.derive(
            self.options.get('ttl', 15.0), self.options.get('lock-delay', 15.0),
            check_ttl=self.options.get('check-ttl')))
        lanes: list[tuple[str, list[tuple[float, float, str, str]]]] = []
        moments: list[tuple[float, str]] = []
        for line in filter(None, map(str.strip, self.content)):
            if line.startswith('@'):
                time, _, text = line[1:].strip().partition(' ')
                moments.append((self._time(time), self._fill(text)))
            else:
                name, *bars = (part.strip() for part in line.split(' | '))
                lanes.append((name, [self._bar(bar) for bar in bars]))
        figure = nodes.container(classes=['timeline'])
        for size in SIZES:
            figure += nodes.raw('', draw(
                self.arguments[0], lanes, moments, size), format='html')
        figure += self._legend(moments)
        return [figure]

    def _bar(self, text: str) -> tuple[float, float, str, str]:
        found = re.fullmatch(r'(\S+)\.\.(\S+) (\w+) ?(.*)', text)
        if not found:
            raise self.error(f'not a bar: {text!r}')
        start, end, style, label = found.groups()
        return self._time(start), self._time(end), style, self._fill(label)

    def _time(self, text: str) -> float:
        return sum(map(float, text.format(**self.figures).split('+')))

    def _fill(self, text: str) -> str:
        shown = {name: f'{value:g}' for name, value in self.figures.items()}
        return text.format(**shown)

    def _legend(self, moments: list[tuple[float, str]]) -> nodes.Node:
        lines = [f'{number}. **{time:g} s**: {text}'
                 for number, (time, text) in enumerate(moments, 1)]
        legend = nodes.container()
        self.state.nested_parse(
            StringList(lines, source=self.get_source_info()[0]),
            self.content_offset, legend)
        return legend


def draw(title: str,
         lanes: list[tuple[str, list[tuple[float, float, str, str]]]],
         moments: list[tuple[float, str]], size: str) -> str:
    """Return the drawing as SVG that takes its colours from the page.

    A label that its bar has no room for is left out; the list of moments below
    the drawing has it.
    """
    left, right, all_of_it = SIZES[size]
    times = [time for _, bars in lanes for bar in bars for time in bar[:2]]
    first, last = min(times), max(times)
    scale = (right - left) / (last - first)

    def x(time: float) -> float:
        return left + (time - first) * scale

    bottom = TOP + LANE * len(lanes)
    out = [f'<svg class="{size}" viewBox="0 0 {all_of_it} {bottom + 8:g}" '
           f'role="img" aria-label="{html.escape(title)}">']
    for time, _ in moments:
        out.append(f'<line x1="{x(time):.1f}" y1="22" x2="{x(time):.1f}" '
                   f'y2="{bottom:g}"/>')
    for row, (name, bars) in enumerate(lanes):
        y = TOP + LANE * row
        middle = y + BAR / 2 + 5
        out.append(f'<text x="0" y="{middle:g}" class="lane">'
                   f'{html.escape(name)}</text>')
        for start, end, style, label in bars:
            width = (end - start) * scale
            out.append(f'<rect class="{style}" x="{x(start):.1f}" y="{y:g}" '
                       f'width="{width:.1f}" height="{BAR:g}" rx="3"/>')
            if label and len(label) * LETTER <= width:
                out.append(
                    f'<text x="{x(start) + width / 2:.1f}" y="{middle:g}" '
                    f'class="bar">{html.escape(label)}</text>')
    for number, (time, _) in enumerate(moments, 1):
        out.append(f'<circle cx="{x(time):.1f}" cy="12" r="10"/>'
                   f'<text x="{x(time):.1f}" y="16.5" class="number">{number}'
                   f'</text>')
    return '\n'.join([*out, '</svg>'])


class TimingsTable(SphinxDirective):
    """The directive ``timings-table``."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        group = nodes.tgroup(cols=len(HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in WIDTHS]
        group += nodes.thead('', self._row(HEADINGS))
        group += nodes.tbody('', *(
            self._row(self._cells(line)) for line in self.content if line))
        return [nodes.table('', group, classes=['timings'])]

    def _cells(self, line: str) -> tuple[str, ...]:
        wish, settings = (part.strip() for part in line.split('|'))
        given = dict(each.split('=') for each in settings.split())
        timings = Timings.derive(
            **{name: float(value) for name, value in given.items()})
        shown = '\n'.join(f'| :setting:`{name} <ConsulLock.{name}>` {value}'
                          for name, value in given.items())
        return (wish, shown, f'{timings.slack:g} s',
                f'{timings.dead_machine:g} s')

    def _row(self, cells: tuple[str, ...]) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            entry = nodes.entry()
            self.state.nested_parse(
                StringList(cell.splitlines(), source=self.get_source_info()[0]),
                self.content_offset, entry)
            row += entry
        return row


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directives known to Sphinx."""
    app.add_directive('timeline', Timeline)
    app.add_directive('timings-table', TimingsTable)
    return {'parallel_read_safe': True, 'version': '1'}
