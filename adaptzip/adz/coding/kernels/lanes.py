"""Decoding the levels of many modules, two at a time: what one waits for, the other computes in the meantime.

Each module has its own bit string, a job. A job's rows follow one another, in `rows`, and so do their numbers in what
is decoded. A lane takes a job after another.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptzip.adz.coding.kernels import contexts
from adaptzip.adz.coding.kernels.ans import MASK, PRECISION, WORD, pop, pop_uniform
from adaptzip.adz.coding.kernels.levels import pop_rest
from adaptzip.adz.coding.tables import LEVELS
from adaptzip.adz.coding.trellis import PARITY_CHECK
from adaptzip.core.compiled import compiled, inlined

NEARLY_BITS = 8
"""Bits of a quantile by which its symbol is looked up."""
TABLE, RAW, WIDTH, FRESH = range(4)
"""Columns of a row: its table for quantiser 0, below 0 for zeros; raw bits; numbers; whether its tensor begins."""
STATE, BEGIN, COUNT = range(3)
"""Columns of a job: the coder's state, where its words begin, one before the first, and where the next one lies."""
_JOB, _ROW, _LEFT, _AT, _TRELLIS = range(5)
"""Columns of a lane: its job, row and how many numbers of that are left, where the next is put, and the trellis."""
WIDE, VALUE, ODD, SYMBOL = np.uint64(24), np.uint64(48), np.uint64(56), np.uint64(58)
ESCAPE = np.uint64(2**57)
"""A packed model: where its interval begins and, from bit `WIDE`, how wide it is, in 24 bits each; its number in steps,
in 8, of an escape the quantiser; the parity of its level; whether it is an escape; and its symbol, in 6."""
_ONE, _FIVE, _SIX = np.uint64(1), np.uint64(5), np.uint64(6)
_BITS, _UNGUESSED = np.uint64(NEARLY_BITS), np.uint64(24 - NEARLY_BITS)
_BY_PARITY = np.uint64(PARITY_CHECK[1] >> 1)
U, F = np.uint64, np.float32


@compiled
def open_all(words: Any, jobs: Any, max_rank: Any, ranks: Any) -> int:
    """Begin every job, whose words end before COUNT, and find its rank; the job whose last word is 0, or -1."""
    for job in range(len(jobs)):
        begin, end = np.int64(jobs[job, BEGIN]), np.int64(jobs[job, COUNT])
        if not words[end - 1]:
            return job
        count, state = end - 2, U(words[end - 1])
        if count > begin:
            state, count = (state << WORD) | U(words[count]), count - 1
        rank, state, count = pop_uniform(state, max_rank, words, begin, count)
        ranks[job], jobs[job, STATE], jobs[job, COUNT] = rank + 1, state, count
    return -1


@compiled
def classes(words: Any, jobs: Any, tensors: Any, rows: Any, sixths: Any, found: Any) -> None:
    """Decode the classes of all rows of all jobs.

    Args:
        tensors: (jobs,) how many each job has.
        rows, sixths: of all tensors, as for `contexts.decode`.
        found: (2, all rows).
    """
    first, row, stack = 0, 0, np.empty(2, np.uint64)
    for job in range(len(jobs)):
        last = first + tensors[job]
        end = row
        for tensor in range(first, last):
            end += rows[tensor]
        stack[contexts.STATE], stack[contexts.COUNT] = jobs[job, STATE], jobs[job, COUNT]
        contexts.decode(
            stack, words, np.int64(jobs[job, BEGIN]), rows[first:last], sixths[first:last], found[:, row:end]
        )
        jobs[job, STATE], jobs[job, COUNT] = stack[contexts.STATE], stack[contexts.COUNT]
        first, row = last, end


@inlined
def _refilled(state: Any, count: Any, words: Any) -> Any:
    """A state with another word where it needs one, which there is: without a branch, as that could not be foretold."""
    full = (state << WORD) | U(words[count])
    more = U((state >> WORD) == U(0))
    return full if more else state, count - more


@inlined
def _number(state: Any, count: Any, trellis: Any, first: Any, words: Any, nearly: Any, models: Any, next_: Any) -> Any:
    """A number's model, the state, the words left, which are known to last, and the trellis."""
    table = first + (trellis & _ONE)
    quantile = state & MASK
    model = nearly[(table << _BITS) | (quantile >> _UNGUESSED)]
    share = (model >> WIDE) & MASK
    beyond = quantile - (model & MASK)
    if beyond >= share:
        symbol = (table << _SIX) | (model >> SYMBOL)
        while beyond >= share:
            symbol += _ONE
            model = models[symbol]
            share = (model >> WIDE) & MASK
            beyond = quantile - (model & MASK)
    state, count = _refilled((state >> PRECISION) * share + beyond, count, words)
    return model, state, count, U(next_[(trellis << _ONE) | ((model >> ODD) & _ONE)])


@compiled
def _escaped(q: Any, state: Any, begin: Any, count: Any, trellis: Any, words: Any) -> Any:
    """The number of an escape, the state, the words left and the trellis; NaN for a level beyond the format's."""
    level, state, left = pop_rest(state, np.int64(LEVELS + 1), 0, words, np.int64(begin), np.int64(count))
    if level >> 32 > 0:
        return F(np.nan), state, U(left), trellis
    return _value(level, q), state, U(left), trellis ^ (U(level & 1) * _BY_PARITY)


@compiled
def _value(level: Any, q: Any) -> Any:
    return F(2 * level - np.int64(q) * np.sign(level))


@compiled
def _slowly(lane: Any, jobs: Any, row: Any, words: Any, models: Any, next_: Any, out: Any) -> bool:
    """Decode the rest of a lane's row, when words may end; whether all levels are within the format's."""
    job = jobs[lane[_JOB]]
    state, begin, count = job[STATE], np.int64(job[BEGIN]), np.int64(job[COUNT])
    trellis, raw = U(lane[_TRELLIS]), row[RAW]
    for at in range(lane[_AT], lane[_AT] + lane[_LEFT]):
        q = trellis & _ONE
        table = U(row[TABLE]) + (U(0) if raw else q)
        quantile, symbol = state & MASK, U(0)
        model = models[table << _SIX]
        while quantile - (model & MASK) >= (model >> WIDE) & MASK:
            symbol += _ONE
            model = models[(table << _SIX) | symbol]
        state, count = pop(state, model & MASK, (model >> WIDE) & MASK, words, begin, count)
        level = np.int64(symbol) - LEVELS
        if level > LEVELS or raw:
            level, state, count = pop_rest(state, level, raw, words, begin, count)
            if level >> 32 > 0:
                return False
        out[at] = _value(level, q)
        trellis = U(next_[(trellis << _ONE) | U(level & 1)])
    job[STATE], job[COUNT] = state, count
    lane[_AT], lane[_LEFT], lane[_TRELLIS] = lane[_AT] + lane[_LEFT], 0, trellis
    return True


@compiled
def _ready(lane: Any, taken: Any, jobs: Any, first_rows: Any, places: Any, rows: Any, next_: Any, out: Any) -> Any:
    """Move a lane to its next row that is coded, if any: how many jobs are taken then."""
    while not lane[_LEFT]:
        if lane[_JOB] < 0 or lane[_ROW] == first_rows[lane[_JOB] + 1]:
            if taken == len(jobs):
                return taken
            lane[_JOB], lane[_ROW], lane[_AT] = taken, first_rows[taken], places[taken]
            taken += 1
            continue
        row = rows[lane[_ROW]]
        lane[_ROW] += 1
        if row[FRESH]:
            lane[_TRELLIS] = 0
        if row[TABLE] >= 0:
            lane[_LEFT] = row[WIDTH]
            continue
        trellis = U(lane[_TRELLIS])
        for at in range(lane[_AT], lane[_AT] + row[WIDTH]):
            out[at], trellis = 0, U(next_[trellis << _ONE])
        lane[_AT], lane[_TRELLIS] = lane[_AT] + row[WIDTH], trellis
    return taken


@compiled
def _alone(
    lane: Any, numbers: Any, jobs: Any, rows: Any, words: Any, nearly: Any, models: Any, next_: Any, out: Any
) -> bool:
    """Decode so many numbers of a lane, for which its words last; whether all levels are within the format's."""
    job, first, own = jobs[lane[_JOB]], U(rows[lane[_ROW] - 1, TABLE]), out[lane[_AT] : lane[_AT] + numbers]
    state, count, trellis = job[STATE], job[COUNT], U(lane[_TRELLIS])
    i, last = 0, numbers
    while i < last:
        model, state, count, trellis = _number(state, count, trellis, first, words, nearly, models, next_)
        value = F(np.int8(model >> VALUE))
        if model & ESCAPE:
            value, state, count, trellis = _escaped((model >> VALUE) & _ONE, state, job[BEGIN], count, trellis, words)
            if np.isnan(value):
                return False
            last = i + 1
        own[i] = value
        i += 1
    job[STATE], job[COUNT] = state, count
    lane[_AT], lane[_LEFT], lane[_TRELLIS] = lane[_AT] + i, lane[_LEFT] - i, trellis
    return True


@compiled
def _raw(
    lane: Any, numbers: Any, jobs: Any, row: Any, words: Any, nearly: Any, models: Any, next_: Any, out: Any
) -> bool:
    """As `_alone`, in a row of raw bits; words last for two a number."""
    job, own, even = jobs[lane[_JOB]], out[lane[_AT] : lane[_AT] + numbers], U(0)
    state, count, trellis = job[STATE], job[COUNT], U(lane[_TRELLIS])
    bits, half = U(row[RAW]), np.int64(1) << (row[RAW] - 1)
    i, last = 0, numbers
    while i < last:
        model, state, count, _ = _number(state, count, even, U(row[TABLE]), words, nearly, models, next_)
        q = trellis & _ONE
        if model & ESCAPE:
            escape = np.int64(LEVELS + 1)
            level, state, left = pop_rest(state, escape, row[RAW], words, np.int64(job[BEGIN]), np.int64(count))
            if level >> 32 > 0:
                return False
            last, count = i + 1, U(left)
        else:
            low = (state & MASK) >> (PRECISION - bits)
            state = ((state >> PRECISION) << (PRECISION - bits)) + (state & MASK) - (low << (PRECISION - bits))
            state, count = _refilled(state, count, words)
            level = ((np.int64(np.int8(model >> VALUE)) >> 1) << row[RAW]) + np.int64(low) - half
        own[i] = _value(level, q)
        trellis = U(next_[(trellis << _ONE) | U(level & 1)])
        i += 1
    job[STATE], job[COUNT] = state, count
    lane[_AT], lane[_LEFT], lane[_TRELLIS] = lane[_AT] + i, lane[_LEFT] - i, trellis
    return True


@compiled
def _together(
    lanes: Any, numbers: Any, jobs: Any, rows: Any, words: Any, nearly: Any, models: Any, next_: Any, out: Any
) -> int:
    """As `_alone`, of both lanes: -1, or the lane that has a level beyond the format's."""
    lane0, lane1 = lanes[0], lanes[1]
    job0, first0, own0 = jobs[lane0[_JOB]], U(rows[lane0[_ROW] - 1, TABLE]), out[lane0[_AT] : lane0[_AT] + numbers]
    job1, first1, own1 = jobs[lane1[_JOB]], U(rows[lane1[_ROW] - 1, TABLE]), out[lane1[_AT] : lane1[_AT] + numbers]
    state0, count0, trellis0 = job0[STATE], job0[COUNT], U(lane0[_TRELLIS])
    state1, count1, trellis1 = job1[STATE], job1[COUNT], U(lane1[_TRELLIS])
    i, last = 0, numbers
    while i < last:
        model0, state0, count0, trellis0 = _number(state0, count0, trellis0, first0, words, nearly, models, next_)
        model1, state1, count1, trellis1 = _number(state1, count1, trellis1, first1, words, nearly, models, next_)
        own0[i], own1[i] = np.int8(model0 >> VALUE), np.int8(model1 >> VALUE)
        if (model0 | model1) & ESCAPE:
            last = i + 1
            if model0 & ESCAPE:
                q = (model0 >> VALUE) & _ONE
                own0[i], state0, count0, trellis0 = _escaped(q, state0, job0[BEGIN], count0, trellis0, words)
            if model1 & ESCAPE:
                q = (model1 >> VALUE) & _ONE
                own1[i], state1, count1, trellis1 = _escaped(q, state1, job1[BEGIN], count1, trellis1, words)
            if np.isnan(own0[i] + own1[i]):
                return 0 if np.isnan(own0[i]) else 1
        i += 1
    job0[STATE], job0[COUNT], job1[STATE], job1[COUNT] = state0, count0, state1, count1
    lane0[_AT], lane0[_LEFT], lane0[_TRELLIS] = lane0[_AT] + i, lane0[_LEFT] - i, trellis0
    lane1[_AT], lane1[_LEFT], lane1[_TRELLIS] = lane1[_AT] + i, lane1[_LEFT] - i, trellis1
    return -1


@compiled
def decode(
    words: Any, jobs: Any, first_rows: Any, places: Any, rows: Any, nearly: Any, models: Any, next_: Any, out: Any
) -> Any:
    """Decode the numbers of all jobs: -1, or a job that has a level beyond the format's.

    Args:
        words: uint32, of all jobs; a word that is none stands before those of each.
        jobs: (jobs, 3) uint64.
        first_rows, places: (jobs + 1,) int64, where the rows and the numbers of each begin.
        rows: (rows, 4) int64.
        nearly, models: packed models of symbols: `nearly` (tables, 256), flat, by the highest bits of a quantile the
            first that may hold it, `models` (tables, 64), flat, all.
        next_: (128, 2) uint8, flat: the trellis by that before and a level's parity.
        out: float32, numbers in steps.
    """
    lanes, numbers, taken = np.empty((2, 5), np.int64), np.empty(2, np.int64), 0
    for i in range(2):
        lanes[i, _JOB], lanes[i, _ROW], lanes[i, _LEFT], lanes[i, _AT], lanes[i, _TRELLIS] = -1, 0, 0, 0, 0
    while True:
        for i in range(2):
            lane = lanes[i]
            while True:
                taken = _ready(lane, taken, jobs, first_rows, places, rows, next_, out)
                if not lane[_LEFT]:
                    break
                row, job = rows[lane[_ROW] - 1], jobs[lane[_JOB]]
                numbers[i] = min(lane[_LEFT], np.int64(job[COUNT] - job[BEGIN]) >> np.int64(row[RAW] > 0))
                if numbers[i] and not row[RAW]:
                    break
                if numbers[i]:
                    right = _raw(lane, numbers[i], jobs, row, words, nearly, models, next_, out)
                else:
                    right = _slowly(lane, jobs, row, words, models, next_, out)
                if not right:
                    return lane[_JOB]
        if lanes[0, _LEFT] and lanes[1, _LEFT]:
            least = min(numbers[0], numbers[1])
            wrong = _together(lanes, least, jobs, rows, words, nearly, models, next_, out)
        elif lanes[0, _LEFT] or lanes[1, _LEFT]:
            i = 0 if lanes[0, _LEFT] else 1
            right = _alone(lanes[i], numbers[i], jobs, rows, words, nearly, models, next_, out)
            wrong = -1 if right else i
        else:
            return -1
        if wrong >= 0:
            return lanes[wrong, _JOB]
