-- settle: give each turn its one outcome: publish and store the reply, record missed turns, end the turn.
-- Refused unless the receipt is in flight with this bridge.
--
-- ARGV 1 reply_ttl_ms  2 length of the replies stream  3 missed turns kept of each persona at most  4 and their bytes
--      5 turns that may wait for the journal  6 and their bytes  7 bytes of memory that dead letters may take
--      8 bridge  9 ttl_ms of a task stream  10 events it keeps  and then, for each turn,
--      receipt, outcome (letta | memory | error | interrupted | repeated | dead | erased),
--      reply JSON or '', channel for it or '' to keep it without publishing,
--      task response JSON or '', channel for it,
--      user:task_id the reply is kept under, '' not to keep it,
--      NX where a reply that is kept there already stays, '' where it is replaced,
--      JSON members added to the reply where it is kept, '' for none,
--      user whose missed turns change or '', SHA-1 of each record to remove, separated by blanks,
--      missed turns to add, a line each, '' for none,
--      dead letter: JSON line to put before the payload, '' for none,
--      what the journal keeps beside the reply, '' for nothing,
--      words the turn is tallied under, separated by blanks,
--      1 if an interrupt changes this outcome, else '',
--      user:task_id of the task stream to be ended, '' without one, its channel, number of the first event (from 1),
--      the events that it may lack, a line of JSON each,
--      channel of an event that is only published, '' without one, and the event
-- Returns for each turn a code (below), {INTERRUPTED, the interrupt's request, how many events are stored}, or its error
--      (one that fails does not hold up the others); then the length of `ready`.

local reply_ttl_ms, replies_kept = ARGV[1], ARGV[2]
missed_kept, missed_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local journal_bound, journal_bytes, dead_bytes = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local bridge, stream_ttl_ms, longest_stream = ARGV[8], ARGV[9], ARGV[10]
local FIRST, FIELDS = 11, 22
local TALLY_SECONDS = 900
-- Dead letters dropped for each added one, at most: after the bound was lowered, later additions drop the rest.
local DROPPED = 16
-- Codes that request_queue/redis_queue.py reads.
local TAKEN_OVER, SETTLED, REPEATED, FORGOTTEN, INTERRUPTED, EVENTS_LOST = 0, 1, 2, 3, 4, 5

-- A reply as it is stored, with members at its end that are not published.
local function as_kept(reply, mark)
    return mark == '' and reply or string.sub(reply, 1, -2) .. ',' .. mark .. '}'
end

-- FORGOTTEN: Redis has lost the hand-out, call `restore` first. REPEATED: an earlier call succeeded, exactly this reply
-- is stored. TAKEN_OVER: another bridge has the task or has settled it; an answer is dropped and counted. INTERRUPTED: the
-- task was interrupted, settle it as such. EVENTS_LOST: Redis has lost events of the task stream, settle with all of them.
local function refusal(record, receipt, reply, kept, mark)
    if not record and forgotten(bridge, receipt) then
        return FORGOTTEN
    end
    if reply ~= '' then
        if kept ~= '' and redis.pcall('GET', REPLY .. kept) == as_kept(reply, mark) then
            return REPEATED
        end
        redis.call('HINCRBY', COUNTERS, 'answers_refused', 1)
    end
    return TAKEN_OVER
end

local function answer(outcome, reply, channel, response, response_channel, kept, condition, mark)
    if reply ~= '' then
        if kept ~= '' then
            if condition ~= 'NX' then
                redis.call('SET', REPLY .. kept, as_kept(reply, mark), 'PX', reply_ttl_ms)
            elseif not redis.call('SET', REPLY .. kept, as_kept(reply, mark), 'PX', reply_ttl_ms, 'NX')
                and redis.call('PTTL', REPLY .. kept) > tonumber(reply_ttl_ms) then
                redis.call('PEXPIRE', REPLY .. kept, reply_ttl_ms)  -- dispatch.lua kept it longer for this task
            end
        end
        if outcome ~= 'repeated' then
            redis.call('XADD', REPLIES, 'MAXLEN', '~', replies_kept, '*', 'reply', reply)
        end
        if channel ~= '' then
            redis.call('PUBLISH', channel, reply)
        end
    end
    if response ~= '' then
        redis.call('PUBLISH', response_channel, response)
    end
end

-- The oldest dead letters beyond the bound are dropped; the newest stays, whatever its size.
local function bury(letter)
    redis.call('LPUSH', DEAD, letter)
    local dropped = drop_tail(DEAD, dead_bytes, DROPPED)
    if dropped > 0 then
        redis.call('HINCRBY', COUNTERS, 'dead_dropped', dropped)
    end
end

-- The newest are dropped, because the writer may already have read older ones.
local function journalise(turn, reply)
    local waiting = redis.call('XLEN', JOURNAL)
    local bytes = tonumber(redis.call('HGET', COUNTERS, 'journal_bytes') or 0) + #turn + #reply
    if waiting == 0 or waiting < journal_bound and bytes <= journal_bytes then
        add_to_journal(turn, reply)
    else
        redis.call('HINCRBY', COUNTERS, 'journal_dropped', 1)
    end
end

-- The additions of these settlements to the counters and tallies, written once for all of them.
local closed, receipts, outcomes, words = {}, {}, {}, {}

local function count(sums, name)
    sums[name] = (sums[name] or 0) + 1
end

-- A tally key of the wrong type must not block the settlements.
local function tally()
    if next(words) == nil then
        return
    end
    local key = TALLY .. minute_of(now_ms())
    for word, turns in pairs(words) do
        redis.pcall('HINCRBY', key, word, turns)
    end
    redis.pcall('EXPIRE', key, TALLY_SECONDS)
end

-- Of the last events of an interrupted turn: that it was interrupted, unless its listeners know, and the end.
local function unsaid(key, lines)
    local _, _, _, last = last_event(key)
    if is_interrupt(lines[1]) and not is_interrupt(last) then
        return lines
    end
    return { lines[#lines] }
end

-- Adds the last events of a task stream; false where Redis lost earlier ones. Behind an interrupt nothing is said any more
-- but that the stream ends. A key of another type, or Redis out of memory, must not block the user's answer.
local function end_stream(task, receipt, channel, first, events, request)
    local lines = lines_of(events)
    if request then
        first, lines = 0, unsaid(STREAM .. task, lines)
    end
    local done, stored = pcall(
        add_events, STREAM .. task, receipt, first, lines, channel, stream_ttl_ms, longest_stream)
    return not done or stored >= first - 1
end

-- How many events of a hand-out are in a stream.
local function stored_of(key, receipt)
    local done, _, writer, count = pcall(last_event, key)
    return done and writer == receipt and count or 0
end

local function settle(
    receipt, outcome, reply, channel, response, response_channel, kept, condition, mark,
    missed_user, told, missed, dead, journal, tallied, interruptible, task, stream_channel, first, events,
    repeated_channel, repeated_event)
    local record = redis.call('HGET', TURNS, receipt)
    local _, lane, entry = split_turn(record and is_of(record, bridge) and record or '')
    if not entry then
        return refusal(record, receipt, reply, kept, mark)
    end
    local request = any_interrupts and kept ~= '' and interrupt_request(kept, number_of(entry))
    if request and interruptible ~= '' then
        return { INTERRUPTED, request, task ~= '' and stored_of(STREAM .. task, receipt) or 0 }
    end
    if task ~= '' and not end_stream(task, receipt, stream_channel, tonumber(first), events, request) then
        return EVENTS_LOST
    end
    if missed_user ~= '' then
        change_missed(missed_user, told, missed)
    end
    answer(outcome, reply, channel, response, response_channel, kept, condition, mark)
    if repeated_channel ~= '' then
        redis.call('PUBLISH', repeated_channel, repeated_event)
    end
    if dead ~= '' then
        local _, _, _, payload = split_entry(entry)
        bury(dead .. '\n' .. (payload or entry))
    end
    if journal ~= '' then
        journalise(journal, reply)
    end
    free_lane(receipt, lane)
    closed[#closed + 1], receipts[#receipts + 1] = entry, receipt
    count(outcomes, outcome)
    for word in string.gmatch(tallied, '%S+') do
        count(words, word)
    end
    return SETTLED
end

local results = results_of_groups(FIRST, FIELDS, settle)
call_many('ZREM', LEASES, receipts)
call_many('ZREM', BEGUN, receipts)
close_entries(closed)
for outcome, turns in pairs(outcomes) do
    redis.call('HINCRBY', COUNTERS, 'settled:' .. outcome, turns)
end
tally()
results[#results + 1] = redis.call('LLEN', READY)
return results
