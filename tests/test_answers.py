"""Reading answers of HTTP."""

import io

import pytest

from jobslib.consul.answers import Answer, read_answer

OK = b'HTTP/1.1 200 OK\r\n'


def read(data: bytes, limit: int = 100) -> Answer:
    """Read an answer that is all that a server sends."""
    return read_answer(io.BufferedReader(io.BytesIO(data)), limit)


@pytest.mark.parametrize(('data', 'body', 'closes'), [
    (OK + b'Content-Length: 2\r\n\r\nabc', b'ab', False),
    (OK + b'CONTENT-LENGTH:2\r\n\r\nab', b'ab', False),
    (b'HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n', b'', False),
    (OK + b'Content-Length: 2\r\nConnection: Close\r\n\r\nab', b'ab', True),
    (b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab', b'ab', True),
    (b'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab',
     b'ab', False),
    (OK + b'\r\nuntil the end', b'until the end', True),
    (b'HTTP/1.1 204 No Content\r\n\r\n', b'', False),
    (b'HTTP/1.1 100 Continue\r\n\r\n' + OK + b'Content-Length: 1\r\n\r\na',
     b'a', False),
    (OK + b'Transfer-Encoding: Chunked\r\n\r\n'
     b'0A;x=1\r\n0123456789\r\n1\r\na\r\n0\r\nX: y\r\n\r\n', b'0123456789a', False),
], ids=range(10))
def test_answers(data: bytes, body: bytes, closes: bool) -> None:
    """It ends where its length, its chunks or the connection say so."""
    answer = read(data)
    assert (answer.body, answer.closes) == (body, closes)


@pytest.mark.parametrize('headers', [
    b'Transfer-Encoding: gzip, chunked', b'Content-Length: -1', b'Content-Length: 1_0',
    b'Content-Length: 0x1', b'Content-Length:', b'no colon', b'spaced name: 1',
    b' folded: 1', b'\r\n'.join([b'a: b'] * 1000),
], ids=range(9))
def test_headers_that_mislead(headers: bytes) -> None:
    """An answer whose end cannot be known for sure is none."""
    with pytest.raises(ValueError):
        read(OK + headers + b'\r\n\r\n' + b'a' * 20)


@pytest.mark.parametrize('body', [
    b'2\r\nabc\r\n0\r\n\r\n', b'\r\nab', b'+2\r\nab\r\n0\r\n\r\n', b'2\r\nab\r\n0\r\n',
    b'65\r\n' + b'a' * 101 + b'\r\n0\r\n\r\n',
    b'60\r\n' + b'a' * 96 + b'\r\n5\r\n' + b'a' * 5 + b'\r\n0\r\n\r\n',
], ids=range(6))
def test_chunks_that_are_wrong(body: bytes) -> None:
    """Chunks that are not as long as they say, or too long together, are none."""
    with pytest.raises(ValueError):
        read(OK + b'Transfer-Encoding: chunked\r\n\r\n' + body)


def test_no_answer() -> None:
    """A connection that ends at once is told from an answer that is cut short."""
    with pytest.raises(ConnectionResetError):
        read(b'')
    with pytest.raises(ValueError, match='cut short'):
        read(OK[:-1] + b'\r\nConten')
