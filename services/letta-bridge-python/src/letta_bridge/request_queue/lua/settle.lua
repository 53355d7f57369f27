-- settle: give turns their one outcome each: publish and keep the reply, remember what the agent missed, end the turn.
-- Refused unless the receipt is in flight with this bridge.
--
-- ARGV 1 reply_ttl_ms  2 length of the replies stream  3 missed turns kept at most  4 turns that may wait for the journal
--      5 bridge  and then, for each turn,
--      receipt, outcome (letta | memory | error | repeated | dead | erased),
--      reply JSON or '', channel for it or '' to keep it without publishing,
--      task response JSON or '', channel for it,
--      user:task_id the reply is kept under, '' not to keep it,
--      user whose missed turns change or '', missed turn to add, '' to forget them all,
--      dead letter: JSON line to put before the payload, '' for none,
--      what the journal keeps beside the reply, '' for nothing
-- Returns for each turn a code (below), or its error (one that fails does not hold up the others); then the length of
--      `ready`.

local reply_ttl_ms, replies_kept, missed_kept, journal_bound = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local bridge = ARGV[5]
local FIRST, FIELDS = 6, 11
-- Codes that request_queue/redis_queue.py reads.
local TAKEN_OVER, SETTLED, REPEATED, FORGOTTEN = 0, 1, 2, 3

-- FORGOTTEN: Redis has lost the hand-out, call `restore` first. REPEATED: an earlier try succeeded, this very reply is
-- kept. TAKEN_OVER: another bridge has the task or has ended it; an answer is dropped and counted.
local function refusal(record, receipt, reply, kept)
    if not record and forgotten(bridge, receipt) then
        return FORGOTTEN
    end
    if reply ~= '' then
        if kept ~= '' and redis.pcall('GET', REPLY .. kept) == reply then
            return REPEATED
        end
        redis.call('HINCRBY', COUNTERS, 'answers_refused', 1)
    end
    return TAKEN_OVER
end

local function answer(outcome, reply, channel, response, response_channel, kept)
    if reply ~= '' then
        if kept ~= '' then
            redis.call('SET', REPLY .. kept, reply, 'PX', reply_ttl_ms)
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

local function remember(user, missed)
    local before, after = redis.call('LLEN', MISSED .. user), 0
    if missed ~= '' then
        redis.call('RPUSH', MISSED .. user, missed)
        redis.call('LTRIM', MISSED .. user, -missed_kept, -1)
        after = redis.call('LLEN', MISSED .. user)
    elseif before > 0 then
        redis.call('DEL', MISSED .. user)
    end
    if after ~= before then
        redis.call('HINCRBY', COUNTERS, 'missed_pending', after - before)
    end
end

-- A missed-turns key of the wrong type must not keep the user's answer from being published.
local function mend_missed(user, missed, problem)
    if not is_wrong_type(problem) then
        error(problem)
    elseif set_key_aside(MISSED .. user, user_lane(user)) then
        remember(user, missed)
    elseif missed ~= '' then
        set_aside('missed', 'unreadable_record', user_lane(user), missed)
    end
end

local function settle(
    receipt, outcome, reply, channel, response, response_channel, kept, missed_user, missed, dead, journal)
    local record = redis.call('HGET', TURNS, receipt)
    local _, lane, entry = split_turn(record and is_of(record, bridge) and record or '')
    if not entry then
        return refusal(record, receipt, reply, kept)
    end
    if missed_user ~= '' then
        local done, problem = pcall(remember, missed_user, missed)
        if not done then
            mend_missed(missed_user, missed, problem)
        end
    end
    answer(outcome, reply, channel, response, response_channel, kept)
    if dead ~= '' then
        local _, _, _, payload = split_entry(entry)
        redis.call('LPUSH', DEAD, dead .. '\n' .. (payload or entry))
    end
    if journal ~= '' then
        -- The newest are left out: those before them may be on their way into the database already.
        if redis.call('XLEN', JOURNAL) < journal_bound then
            redis.call('XADD', JOURNAL, '*', 'turn', journal, 'reply', reply)
        else
            redis.call('HINCRBY', COUNTERS, 'journal_dropped', 1)
        end
    end
    redis.call('HINCRBY', COUNTERS, 'settled:' .. outcome, 1)
    close_turn(receipt, lane)
    return SETTLED
end

local results = {}
for at = FIRST, #ARGV, FIELDS do
    local done, result = pcall(settle, unpack(ARGV, at, at + FIELDS - 1))
    if not done and type(result) ~= 'table' then  -- a table in Redis 7 and later, a text before
        result = { err = result }
    end
    results[#results + 1] = result
end
results[#results + 1] = redis.call('LLEN', READY)
return results
