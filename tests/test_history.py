"""The history of runs, and the requests of operators, as plain data."""

import json
from typing import Any

import pytest

from jobslib.history import MAX_SIZE, HandIn, History, encode, written_ledger
from jobslib.oneinstance.control import Control, Restraint
from jobslib.oneinstance.requests import PATIENCE, Pause, Request
from jobslib.owner import OwnerRecord
from jobslib.runs import MAX_ERROR, Outcome, Run, describe
from jobslib.schedule.ledger import Ledger, Records, State

NOW = 1000.0
HOLD = 100.0
HOLDER = {'fqdn': 'here', 'pid': 5, 'timestamp': HOLD}


def ended(number: int = 1, outcome: Outcome = Outcome.SUCCEEDED,
          error: BaseException | None = None) -> Run:
    """Return a run that has ended."""
    run = Run(number, 7, 200.0 + number)
    run.fqdn, run.pid = 'here', 5
    run.end(outcome, 0.5, None if error is None else describe(error))
    return run


def read(document: dict[str, Any] | None, record: dict[str, Any] | None,
         now: float = NOW, limit: int = 10, **more: Any) -> History:
    """Return the history in *document*, beside which *record* stands."""
    return History.read(document, OwnerRecord.parse(record), now, limit, **more)


def kept(*runs: Run) -> History:
    """Return the history that the holder of these runs writes."""
    history = History(10)
    history.hold = HOLD
    for run in runs:
        history.add(run, HOLD)
    return history


def exported(history: History) -> dict[str, Any]:
    """Return what is kept of *history*."""
    document = history.export(7)
    assert document is not None
    return document


def test_holder_with_an_old_ledger() -> None:
    """A holder that took the lock with a ledger that was out of date has decided
    anew, so no run of it is presumed when it vanishes."""
    done = Ledger('x', 300.0, slot=300.0, began=300.0, ended=301.0,
                  records=Records.ENDS)
    document = {**exported(kept(ended())), 'ledger': done.export()}
    stale = Ledger('x', 200.0, slot=200.0, state=State.BEGUN, began=400.0,
                   records=Records.ENDS).export()
    later = {'fqdn': 'there', 'pid': 6, 'timestamp': 400.0,
             'schedule': stale | {'due': 400.0}, 'before': [HOLDER]}
    history = read(document, later)
    assert history.unfinished is None and history.runs == 1
    assert history.ledger == done
    newer = stale | {'settled': 400.0, 'slot': 400.0}
    history = read(document, later | {'schedule': newer | {'due': 400.0}})
    assert history.unfinished is not None
    assert history.ledger is None


@pytest.mark.parametrize('slot', [300.0, None])
def test_ledger_of_an_earlier_holder(slot: float | None) -> None:
    """A slot that is done is done; without slots the last run counts."""
    done = Ledger('x', 300.0, slot=slot, began=300.0, ended=301.0,
                  records=Records.ENDS)
    document = {**exported(kept(ended())), 'ledger': done.export()}
    later = OwnerRecord({'timestamp': 400.0, 'schedule': Ledger(
        'x', 300.0, slot=slot, state=State.BEGUN, began=400.0).export()})
    assert written_ledger(document, later) == (done if slot else None)
    same = OwnerRecord({**HOLDER, 'schedule': later.ledger and later.ledger.export()})
    assert written_ledger(document, same) == done
    assert written_ledger(document, None) == done
    assert written_ledger(None, later) is None


def test_control_characters_of_others() -> None:
    """What somebody has written into a record begins no line of a log."""
    record = OwnerRecord({'fqdn': '\x1b[31mevil\r\n\x9b', 'task': 'caf\xe9'})
    assert record.fqdn == r'\x1b[31mevil\r\n\x9b'
    assert record.task == 'caf\xe9'


def test_runs_are_kept_newest_last() -> None:
    """Only so many of the newest runs are kept, and all are counted."""
    history = History(3)
    for number in range(1, 6):
        history.add(ended(number), HOLD)
    history.add(ended(6, Outcome.FAILED, ValueError('bad\nworse')), HOLD)
    document = exported(history)
    assert [run['run'] for run in document['newest']] == [4, 5, 6]
    assert (document['runs'], document['failures']) == (6, 1)
    assert document['succeeded'] == 205.5
    assert document['newest'][-1] == {
        'run': 6, 'token': 7, 'started': 206.0, 'duration': 0.5,
        'outcome': 'failed', 'error': 'ValueError: bad', 'fqdn': 'here',
        'pid': 5}


def test_outcomes_are_counted_apart() -> None:
    """Runs that did not succeed are counted by how they ended, from holder to
    holder."""
    history = History(1)
    for outcome in (Outcome.FAILED, Outcome.KILLED, Outcome.INTERRUPTED,
                    Outcome.FAILED, Outcome.SUCCEEDED):
        history.add(ended(1, outcome), HOLD)
    history = History.read(exported(history), None, NOW, 1)
    history.add(ended(2, Outcome.KILLED), HOLD)
    document = exported(history)
    assert {name: document[name] for name in (
        'runs', 'failures', 'failed', 'killed', 'interrupted')} == {
            'runs': 6, 'failures': 5, 'failed': 2, 'killed': 2,
            'interrupted': 1}


def test_outcomes_that_an_older_version_did_not_count() -> None:
    """Of runs that an older version has counted, only the outcomes of the
    newest are known."""
    older = {'runs': 9, 'failures': 5, 'newest': [
        {'outcome': 'failed'}, {'outcome': 'killed'}, {'outcome': 'succeeded'}]}
    history = History.read(older, None, NOW, 10)
    assert history.failures == 5
    assert history.outcomes == {'failed': 1, 'killed': 1, 'interrupted': 0}


def test_error_that_cannot_be_encoded() -> None:
    """What no encoding has, of a file's name for instance, is escaped."""
    run = ended(1, Outcome.FAILED, ValueError('no \udcff'))
    assert run.error == 'ValueError: no \\udcff'


def test_no_history() -> None:
    """With a limit of 0 nothing is kept, and nothing is read."""
    history = read({'runs': 5, 'newest': [{}]}, {'killed': {}}, limit=0)
    history.add(ended(), HOLD)
    assert history.export(7) is None and history.runs == 0


def test_history_goes_on() -> None:
    """The next holder goes on with what the one before has left."""
    history = kept(ended())
    document = json.loads(encode(exported(history)))
    released = {**HOLDER, 'released': 300.0}
    assert exported(read(document, released)) == exported(history)
    assert exported(read(document, None)) == exported(history)


@pytest.mark.parametrize('record', [
    {**HOLDER, 'timestamp': 150.0}, {'timestamp': 150.0}])
def test_run_of_a_vanished_holder(record: dict[str, Any]) -> None:
    """A holder that vanished with its first run has left a killed one."""
    history = kept(ended())
    found = read(exported(history), record)
    assert (found.runs, found.failures) == (2, 1)
    assert found.newest[-1].outcome is Outcome.KILLED
    assert found.newest[-1].started == 150.0


def test_vanished_between_runs() -> None:
    """Of a holder that had ended a run nobody knows whether another began."""
    history = kept(ended())
    assert read(exported(history), HOLDER).runs == 1


def test_vanished_before_its_first_run() -> None:
    """A holder that vanished while it waited for its first run left none."""
    record = {**HOLDER, 'schedule': {'due': 400.0}}
    assert read(None, record, 399.0).runs == 0
    assert read(None, record, 400.0).newest[0].started == 400


def test_due_when_the_lease_had_ended() -> None:
    """A run that was due when its holder had lost the lock is none of its."""
    record = {**HOLDER, 'schedule': {'due': 400.0}, 'lock_delay': 15.0}
    assert read(None, record, 414.0).runs == 0
    assert read(None, record, 415.0).runs == 1


@pytest.mark.parametrize(('state', 'runs'), [('begun', 2), ('done', 1)])
def test_begins_that_are_recorded(state: str, runs: int) -> None:
    """Where the ledger says what is under way, nobody has to guess."""
    ledger = Ledger('every', records=Records.BEGINS, slot=250.0, began=251.0,
                    state=State(state), failures=1)
    record = {**HOLDER, 'schedule': ledger.export() | {'due': 1.0}}
    found = read(exported(kept(ended())), record)
    assert found.runs == runs
    if state == 'begun':
        lost = found.newest[-1]
        assert (lost.started, lost.slot, lost.attempt) == (251.0, 250.0, 2)
    document = {**exported(kept(ended())), 'ledger': ledger.export()}
    assert read(document, HOLDER).runs == runs


def next_record(record: dict[str, Any], timestamp: float) -> dict[str, Any]:
    """Return the record of the holder after the one that left *record*."""
    return {'fqdn': 'there', 'pid': 6, 'timestamp': timestamp,
            'before': OwnerRecord(record).unsettled}


LOST = {'fqdn': 'there', 'pid': 6, 'timestamp': 150.0, 'token': 8}
NEXT = next_record(LOST, 160.0)


def test_lost_run_is_there_at_once() -> None:
    """Who has the lock next says with it which run was lost, until its history
    has the run."""
    document = exported(kept(ended()))
    found = read(document, NEXT, held=True)
    assert [(run.number, run.token, run.outcome) for run in found.newest] == [
        (1, 7, Outcome.SUCCEEDED), (2, 8, Outcome.KILLED)]
    found.hold = NEXT['timestamp']
    for held in True, False:
        written = {**NEXT, **({} if held else {'released': 200.0})}
        assert read(exported(found), written, held=held).runs == 2


def test_holders_that_vanish_one_after_another() -> None:
    """No run is lost when the next holder vanishes before it can write, nor
    when it gives the lock back without having known that it had it."""
    found = read(exported(kept(ended())), NEXT)
    assert [(run.number, run.started) for run in found.newest] == [
        (1, 201.0), (2, 150.0), (3, 160.0)]
    unheard = {**NEXT, 'released': 161.0}
    assert read(exported(kept(ended())), unheard).number == 2
    third = read(exported(kept(ended())), next_record(unheard, 170.0), held=True)
    assert [run.number for run in third.newest] == [1, 2]


@pytest.mark.parametrize('slot', [300.0, None])
def test_first_run_of_a_holder_that_knew_all(slot: float | None) -> None:
    """A holder that took the lock between two slots, from one that had kept it, was
    not out of date: the run that came due is presumed when it vanishes."""
    ledger = Ledger('x', 300.0 if slot else 0.0, slot=slot, began=300.0, ended=301.0,
                    records=Records.ENDS).export()
    document = {**exported(kept(ended())), 'ledger': ledger}
    later = {'fqdn': 'there', 'pid': 6, 'timestamp': 400.0, 'lock_delay': 15.0,
             'schedule': ledger | {'due': 450.0}}
    unfinished = read(document, later).unfinished
    assert unfinished is not None and unfinished.started == 450.0


@pytest.mark.parametrize('records', [Records.BEGINS, Records.ENDS])
def test_run_of_a_holder_before_the_last(records: Records) -> None:
    """The run that a holder has written to be under way is not lost when the next
    one vanishes as well, with a newer ledger and before it can write."""
    begun = Ledger('x', 300.0, slot=400.0, state=State.BEGUN, began=400.0,
                   records=records)
    document = {**exported(kept(ended())), 'ledger': begun.export()}
    newer = Ledger('x', 600.0, slot=600.0, state=State.BEGUN, began=600.0,
                   records=records)
    found = read(document, {**next_record(HOLDER, 600.0),
                            'schedule': newer.export()})
    assert found.ledger is None
    assert [(run.started, run.slot) for run in found.newest[1:]] == [
        (400.0, 400.0), (600.0, 600.0)]


def test_holders_that_vanished_are_few() -> None:
    """A record does not grow with each holder that vanishes."""
    record = LOST
    for timestamp in range(200, 300):
        record = next_record(record, float(timestamp))
    assert len(json.dumps(record)) < 2000
    assert read(None, record, held=True).runs == 10


def handed_in(*runs: Run, hold: float = 150.0) -> dict[str, HandIn]:
    """Return what somebody has handed in, as it is read."""
    found = HandIn(hold, runs)
    return {found.name: HandIn.parse(json.loads(json.dumps(found.export())))}


def late(number: int, started: float, outcome: Outcome = Outcome.SUCCEEDED) -> Run:
    """Return a run of the holder that was taken to have vanished."""
    run = Run(number, 8, started)
    run.end(outcome, 5.0)
    return run


def test_truth_takes_the_place_of_what_was_presumed() -> None:
    """A run that was handed in has the number of the one that was presumed,
    and those after it keep theirs."""
    presumed = read(exported(kept(ended())), LOST)
    presumed.add(Run(3, 9, 300.0), HOLD)
    found = read(exported(presumed), None, handed_in=handed_in(late(2, 150.1)))
    assert [(run.number, run.outcome) for run in found.newest] == [
        (2, Outcome.SUCCEEDED), (1, Outcome.SUCCEEDED), (3, Outcome.PENDING)]
    assert (found.runs, found.failures, found.number) == (3, 1, 3)
    assert found.unfinished is None


def test_what_is_presumed_is_not_known() -> None:
    """A run that is presumed, with its very token and begin, may be told of."""
    found = read(exported(kept(ended())), LOST)
    assert found.newest[-1].is_same(late(2, 150.0))
    assert not found.knows(late(2, 150.0))
    found.merge(HandIn(150.0, [late(2, 150.0)]))
    assert found.runs == 2 and found.knows(late(2, 150.0))


def test_numbers_are_given_away_once() -> None:
    """Runs that nobody presumed do not get the numbers of others."""
    theirs = kept(ended(), ended(2))
    runs = handed_in(late(2, 150.0), late(3, 160.0), late(9, 170.0))
    found = read(exported(theirs), None, handed_in=runs)
    numbers = [run.number for run in found.newest]
    assert numbers == [3, 4, 9, 1, 2] and found.number == 9
    shown = read(exported(theirs), HOLDER, held=True, handed_in=runs)
    assert [run.export()['run'] for run in shown.newest] == [None] * 3 + [1, 2]


def test_run_that_did_not_begin() -> None:
    """A run that was presumed and did not begin is not there any more; its
    number is not used again."""
    presumed = read(exported(kept(ended())), LOST)
    found = read(exported(presumed), None, handed_in=handed_in())
    assert [run.number for run in found.newest] == [1]
    assert (found.runs, found.failures, found.number) == (1, 0, 2)


def test_handed_in_twice() -> None:
    """What is merged, or written by the keeper meanwhile, is merged once."""
    given = handed_in(late(2, 150.0))
    found = read(exported(kept(ended())), None, handed_in=given)
    found.newest.clear()
    assert not read(exported(found), None, handed_in=given).newest
    assert not read(exported(found), None).merged
    by_keeper = kept(ended(), late(2, 150.0))
    assert read(exported(by_keeper), None, handed_in=given).runs == 2


def test_run_that_the_keeper_saw_end() -> None:
    """A run that ended with its process is in the record, once."""
    history = kept(ended())
    record = {**HOLDER, 'released': 300.0, 'killed': {
        'run': 2, 'outcome': 'killed', 'error': 'its process ended'}}
    found = read(exported(history), record)
    assert found.newest[-1].error == 'its process ended'
    assert found.newest[-1].pid == 5
    assert read(exported(found), record).runs == 2


@pytest.mark.parametrize('document', [
    {}, {'newest': 5}, {'newest': [5, None, 'x']}, {'runs': 'x'},
    {'runs': -1}, {'runs': 1 << 90}, {'runs': True, 'succeeded': 'x'},
    {'runs': None, 'acquired': float('nan')}, {'newest': [{'started': 'x'}]}])
@pytest.mark.parametrize('record', [
    {}, {'killed': 5}, {'killed': {'run': 'x'}}, {'timestamp': 'x'}])
def test_rubbish(document: dict[str, Any], record: dict[str, Any]) -> None:
    """What others have written into the history does not stop the job."""
    history = read(document, record)
    history.add(ended(), HOLD)
    assert json.loads(encode(exported(history)))['newest'][-1]['run'] == 1


def test_size_is_bounded() -> None:
    """However long the errors are, the history stays small."""
    history = History(1000)
    for number in range(1, 1001):
        history.add(ended(number, Outcome.FAILED, ValueError('ÿ' * 10_000)),
                    HOLD)
    data = encode(exported(history))
    assert len(history.newest[0].error or '') == MAX_ERROR
    assert MAX_SIZE / 2 < len(data) < MAX_SIZE * 1.1
    assert json.loads(data)['newest'][-1]['run'] == 1000
    assert json.loads(data)['runs'] == 1000


# Control

PAUSED = Control(Pause('ann@there'))


def asked(do: str, to: str | None = None) -> Control:
    """Return a request for the holder with the token 7."""
    return Control(None, Request(do, 7, 'ann@there', to=to))


def test_demands() -> None:
    """A pause is for every holder, a request for one."""
    assert Control().demand(7) is None
    assert PAUSED.demand(7) == 'paused by ann@there'
    why = Control(Pause('ann@there', reason='disk\nfull '))
    assert why.demand(7) == 'paused by ann@there: disk full'
    assert asked('release').demand(7) == 'release asked for by ann@there'
    assert asked('handover').demand(7) == 'handover asked for by ann@there'
    assert asked('release').demand(8) is None
    assert asked('release').demand(None) is None


@pytest.mark.parametrize('data', [
    None, b'', b'{', b'[]', b'5', b'{"paused": 5, "request": 5}',
    b'{"request": {"do": "nonsense"}}', b'{"request": {"do": []}}', b'[' * 100_000])
def test_rubbish_asks_for_nothing(data: bytes | None) -> None:
    """What cannot be read asks for nothing."""
    control = Control.parse(data)
    assert control.export() == {'paused': None, 'request': None}


def test_control_survives_json() -> None:
    """What was asked is read again as it was written."""
    for control in (Control(), PAUSED, asked('handover', 'there')):
        data = json.dumps(control.export()).encode()
        assert Control.parse(data).export() == control.export()


LEFT = {'fqdn': 'there', 'pid': 1, 'token': 7, 'released': 5.0}


THEIRS = OwnerRecord(LEFT)


def mine(pid: int) -> OwnerRecord:
    """Return what the process *pid* of this machine left."""
    return OwnerRecord({**LEFT, 'fqdn': 'here', 'pid': pid})


def test_pause_bars_everybody() -> None:
    """While the job is paused nobody takes its lock, however long."""
    restraint = Restraint('here')
    assert restraint.find(PAUSED, None, 0) == 'paused by ann@there'
    assert restraint.find(PAUSED, THEIRS, 1e6) == 'paused by ann@there'
    assert restraint.find(Control(), THEIRS, 1e6) is None


@pytest.mark.parametrize('do', PATIENCE)
def test_who_gave_up_the_lock_stands_back(
        do: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who released the lock when asked to lets others have it, for a time."""
    monkeypatch.setattr('os.getpid', lambda: 5)
    restraint = Restraint('here')
    assert restraint.find(asked(do), mine(5), 100) == (
        'the lock was given up for others')
    assert restraint.find(asked(do), mine(6), 100) is None
    assert restraint.find(asked(do), THEIRS, 100) is None
    assert restraint.find(asked(do), mine(5), 99 + PATIENCE[do]) is not None
    assert restraint.find(asked(do), mine(5), 100 + PATIENCE[do]) is None


def test_handover_is_for_one() -> None:
    """A handover to a machine passes the others by, for a time."""
    restraint = Restraint('here')
    elsewhere, to_me = asked('handover', 'else'), asked('handover', 'here')
    assert restraint.find(elsewhere, THEIRS, 100) == (
        'the lock is handed over to else')
    assert restraint.find(elsewhere, THEIRS, 130) is None
    assert Restraint('here').find(to_me, THEIRS, 100) is None


def test_request_that_is_done_with() -> None:
    """A request for another holder than the last one bars nobody."""
    restraint = Restraint('here')
    for record in (None, {}, {**LEFT, 'token': 8}, {**LEFT, 'token': None}):
        assert restraint.find(
            asked('handover', 'else'), OwnerRecord.parse(record), 0) is None
