"""Reading the answer to an HTTP request.

Answers come from Consul's agents, and from proxies before them: with a length,
in chunks, or up to the end of the connection.  :mod:`http.client` reads them as
well, but it loads :mod:`email` and TLS, which takes longer than all the rest that
a lock needs at the start of a supervisor and of a lease keeper.

Standard library only, see :mod:`jobslib.keeper.keeper`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import io

__all__ = ['Answer', 'read_answer']

# The longest first line and header, in bytes, and the most headers.
MAX_LINE = 64 * 1024
MAX_HEADERS = 200
HEXADECIMAL = frozenset(b'0123456789abcdefABCDEF')
# The statuses of answers that have no body, whatever their headers say.
BODILESS = (204, 304)


class Answer:
    """An answer, read to its end.

    The names of the *headers* are in lower case.  *closes* tells whether the
    connection can carry no other request.
    """

    def __init__(self, status: int, headers: dict[str, str], body: bytes,
                 closes: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.closes = closes


def read_answer(file: io.BufferedReader, limit: int) -> Answer:
    """Read an answer.

    :param file: what the server sends.
    :param limit: the longest body, in bytes.
    :raises ConnectionResetError: the connection was ended without an answer.
    :raises ValueError: the answer is too long, cut short, or not HTTP/1.
    """
    while True:
        version, status = _read_status(file)
        headers = _read_headers(file)
        # Statuses below say that the answer is still to come.
        if status >= 200:
            break
    connection = headers.get('connection', '').lower()
    closes = ('keep-alive' not in connection if version == b'HTTP/1.0'
              else 'close' in connection)
    coding, length = headers.get('transfer-encoding'), headers.get('content-length')
    if status in BODILESS:
        body = b''
    elif coding is not None:
        body = _read_chunks(file, coding, limit)
    elif length is not None:
        body = _read_exactly(file, _number(length.encode(), 10, limit))
    else:
        body = file.read(limit + 1)
        _refuse_longer(len(body), limit)
        closes = True
    return Answer(status, headers, body, closes)


def _read_status(file: io.BufferedReader) -> tuple[bytes, int]:
    line = file.readline(MAX_LINE)
    if not line:
        raise ConnectionResetError('the connection was ended without an answer')
    version, _, rest = line.partition(b' ')
    status = rest[:3]
    if not (version.startswith(b'HTTP/1.') and status.isdigit()
            and len(status) == 3 and not rest[3:4].strip()):
        raise ValueError(f'not an answer of HTTP/1: {line[:80]!r}')
    return version, int(status)


def _read_headers(file: io.BufferedReader) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(MAX_HEADERS):
        line = _read_line(file)
        if not line:
            return headers
        name, colon, value = line.partition(b':')
        if not colon or name.split() != [name]:
            raise ValueError(f'not a header of HTTP: {line[:80]!r}')
        headers[name.decode('latin-1').lower()] = value.decode('latin-1').strip()
    raise ValueError(f'an answer with more than {MAX_HEADERS} headers')


def _read_line(file: io.BufferedReader) -> bytes:
    line = file.readline(MAX_LINE)
    if not line.endswith(b'\n'):
        raise ValueError('a line that is too long' if len(line) == MAX_LINE
                         else 'the answer is cut short')
    return line.rstrip(b'\r\n')


def _read_chunks(file: io.BufferedReader, coding: str, limit: int) -> bytes:
    if coding.lower() != 'chunked':
        raise ValueError(f'an answer that is coded as {coding[:80]!r}')
    body = b''
    while True:
        # After a semicolon there may be extensions, which mean nothing here.
        text = _read_line(file).partition(b';')[0]
        size = _number(text, 16, limit - len(body))
        if not size:
            # After the last chunk there may be more headers.
            _read_headers(file)
            return body
        body += _read_exactly(file, size)
        if _read_line(file):
            raise ValueError('a chunk that is longer than it says')


def _read_exactly(file: io.BufferedReader, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError('the answer is cut short')
    return data


def _number(text: bytes, base: int, limit: int) -> int:
    text = text.strip()
    if not text or not HEXADECIMAL.issuperset(text):
        raise ValueError(f'not the length of an answer: {text[:80]!r}')
    number = int(text, base)
    _refuse_longer(number, limit)
    return number


def _refuse_longer(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f'the answer is longer than {limit} bytes')
