-- settle: give turns their one outcome each: publish and keep the reply, remember what the agent missed, end the turn.
-- Refused where the receipt is not in flight any more: another bridge has the turn, or it was settled.
--
-- ARGV 1 reply_ttl_ms  2 length of the replies stream  3 missed turns kept at most  4 turns that may wait for the journal
--      and then, for each turn,
--      receipt, outcome (letta | memory | error | repeated | dead | erased),
--      reply JSON or '', channel for it or '' to keep it without publishing,
--      task response JSON or '', channel for it,
--      user:task_id the reply is kept under, '' not to keep it,
--      user whose missed turns change or '', missed turn to add, '' to forget them all,
--      dead letter: JSON line to put before the payload, '' for none,
--      what the journal keeps beside the reply, '' for nothing
-- Returns for each 1, 0 where it was refused, or its error (one that fails does not hold up the others); and behind them
--      how many lanes wait in `ready`.

local reply_ttl_ms, replies_kept, missed_kept, journal_bound = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local FIRST, FIELDS = 5, 11

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

local closed = {}

local function settle(
    receipt, outcome, reply, channel, response, response_channel, kept, missed_user, missed, dead, journal)
    local record = redis.call('HGET', TURNS, receipt)
    if not record then
        return 0
    end
    local _, lane, entry = split_record(record)
    answer(outcome, reply, channel, response, response_channel, kept)
    if missed_user ~= '' then
        remember(missed_user, missed)
    end
    if dead ~= '' then
        local _, _, _, payload = split_entry(entry)
        redis.call('LPUSH', DEAD, dead .. '\n' .. payload)
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
    closed[#closed + 1] = entry
    return 1
end

local results = {}
for at = FIRST, #ARGV, FIELDS do
    local done, result = pcall(settle, unpack(ARGV, at, at + FIELDS - 1))
    if not done and type(result) ~= 'table' then  -- a table in Redis 7 and later, a text before
        result = { err = result }
    end
    results[#results + 1] = result
end
close_entries(closed)
results[#results + 1] = redis.call('LLEN', READY)
return results
