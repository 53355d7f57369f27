-- settle: give a turn its one outcome: publish and keep the reply, remember what the agent missed, end the turn.
-- Refused (returns 0) where the receipt is not in flight any more: another bridge has the turn, or it was settled.
--
-- ARGV 1 receipt  2 outcome (letta | memory | error | repeated | dead)
--      3 reply JSON, '' for none  4 channel for it, '' to keep it without publishing
--      5 task response JSON, '' for none  6 channel for it
--      7 user:task_id the reply is kept under, '' not to keep it  8 reply_ttl_ms  9 length of the replies stream
--     10 user whose missed turns change, '' for nobody  11 missed turn to add, '' to forget them all  12 most kept
--     13 dead letter: JSON line to put before the payload, '' for none
--     14 what the journal keeps beside the reply, '' for nothing  15 turns that may wait for the journal

local receipt = ARGV[1]
local record = redis.call('HGET', TURNS, receipt)
if not record then
    return 0
end
local _, lane, entry = split_record(record)

if ARGV[3] ~= '' then
    if ARGV[7] ~= '' then
        redis.call('SET', REPLY .. ARGV[7], ARGV[3], 'PX', ARGV[8])
    end
    if ARGV[2] ~= 'repeated' then
        redis.call('XADD', REPLIES, 'MAXLEN', '~', ARGV[9], '*', 'reply', ARGV[3])
    end
    if ARGV[4] ~= '' then
        redis.call('PUBLISH', ARGV[4], ARGV[3])
    end
end
if ARGV[5] ~= '' then
    redis.call('PUBLISH', ARGV[6], ARGV[5])
end

if ARGV[10] ~= '' then
    local before, after = redis.call('LLEN', MISSED .. ARGV[10]), 0
    if ARGV[11] ~= '' then
        redis.call('RPUSH', MISSED .. ARGV[10], ARGV[11])
        redis.call('LTRIM', MISSED .. ARGV[10], -tonumber(ARGV[12]), -1)
        after = redis.call('LLEN', MISSED .. ARGV[10])
    elseif before > 0 then
        redis.call('DEL', MISSED .. ARGV[10])
    end
    if after ~= before then
        redis.call('HINCRBY', COUNTERS, 'missed_pending', after - before)
    end
end

if ARGV[13] ~= '' then
    local _, _, _, payload = split_entry(entry)
    redis.call('LPUSH', DEAD, ARGV[13] .. '\n' .. payload)
end

if ARGV[14] ~= '' then
    -- The newest are left out: those before them may be on their way into the database already.
    if redis.call('XLEN', JOURNAL) < tonumber(ARGV[15]) then
        redis.call('XADD', JOURNAL, '*', 'turn', ARGV[14], 'reply', ARGV[3])
    else
        redis.call('HINCRBY', COUNTERS, 'journal_dropped', 1)
    end
end

redis.call('HINCRBY', COUNTERS, 'settled:' .. ARGV[2], 1)
close_turn(receipt, lane)
return 1
