-- settle: give each turn its one outcome: publish and store the reply, record missed turns, end the turn.
-- Refused unless the receipt is in flight with this bridge.
--
-- ARGV 1 reply_ttl_ms  2 length of the replies stream  3 missed turns kept of each persona at most  4 and their bytes
--      5 turns that may wait for the journal  6 and their bytes  7 bytes of memory that dead letters may take
--      8 bridge  and then, for each turn,
--      receipt, outcome (letta | memory | error | repeated | dead | erased),
--      reply JSON or '', channel for it or '' to keep it without publishing,
--      task response JSON or '', channel for it,
--      user:task_id the reply is kept under, '' not to keep it,
--      NX where a reply that is kept there already stays, '' where it is replaced,
--      JSON members added to the reply where it is kept, '' for none,
--      user whose missed turns change or '', SHA-1 of each record to remove, separated by blanks,
--      missed turns to add, a line each, '' for none,
--      dead letter: JSON line to put before the payload, '' for none,
--      what the journal keeps beside the reply, '' for nothing,
--      words the turn is tallied under, separated by blanks
-- Returns for each turn a code (below), or its error (one that fails does not hold up the others); then the length of
--      `ready`.

local reply_ttl_ms, replies_kept, missed_kept, missed_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local journal_bound, journal_bytes, dead_bytes = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local bridge = ARGV[8]
local FIRST, FIELDS = 9, 15
local TALLY_SECONDS = 900
-- Dead letters dropped for each added one, at most: after the bound was lowered, later additions drop the rest.
local DROPPED = 16
-- Codes that request_queue/redis_queue.py reads.
local TAKEN_OVER, SETTLED, REPEATED, FORGOTTEN = 0, 1, 2, 3

-- A reply as it is stored, with members at its end that are not published.
local function as_kept(reply, mark)
    return mark == '' and reply or string.sub(reply, 1, -2) .. ',' .. mark .. '}'
end

-- FORGOTTEN: Redis has lost the hand-out, call `restore` first. REPEATED: an earlier call succeeded, exactly this reply
-- is stored. TAKEN_OVER: another bridge has the task or has settled it; an answer is dropped and counted.
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

-- The persona of a missed turn; records of the previous release have none.
local function persona_of(record)
    local readable, turn = pcall(cjson.decode, record)
    return readable and type(turn) == 'table' and turn.persona or 'default'
end

-- Drops the oldest records beyond a bound, each persona's separately. The newest stays, whatever its size.
local function drop_oldest(key, added)
    if redis.call('LLEN', key) <= missed_kept and (memory_of(key) or math.huge) <= missed_bytes then
        return
    end
    local persona, same, bytes = persona_of(added), {}, 0
    for _, record in ipairs(redis.call('LRANGE', key, 0, -1)) do
        if persona_of(record) == persona then
            same[#same + 1] = record
            bytes = bytes + #record
        end
    end
    for index = 1, #same - 1 do
        if #same - index < missed_kept and bytes <= missed_bytes then
            break
        end
        redis.call('LREM', key, 1, same[index])
        redis.call('HINCRBY', COUNTERS, 'missed_dropped', 1)
        bytes = bytes - #same[index]
    end
end

local function remember(user, told, missed)
    local key = MISSED .. user
    local before = redis.call('LLEN', key)
    if told ~= '' and before > 0 then
        local is_told = {}
        for digest in string.gmatch(told, '%S+') do
            is_told[digest] = true
        end
        for _, record in ipairs(redis.call('LRANGE', key, 0, -1)) do
            if is_told[redis.sha1hex(record)] then
                redis.call('LREM', key, 1, record)
            end
        end
    end
    for added in string.gmatch(missed, '[^\n]+') do
        redis.call('RPUSH', key, added)
        drop_oldest(key, added)
    end
    local after = redis.call('LLEN', key)
    if after ~= before then
        redis.call('HINCRBY', COUNTERS, 'missed_pending', after - before)
    end
end

-- A missed-turns key of the wrong type must not block the user's answer.
local function mend_missed(user, missed, problem)
    if not is_wrong_type(problem) then
        error(problem)
    elseif set_key_aside(MISSED .. user, user_lane(user)) then
        remember(user, '', missed)
    else
        for added in string.gmatch(missed, '[^\n]+') do
            set_aside('missed', 'unreadable_record', user_lane(user), added)
        end
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

local function settle(
    receipt, outcome, reply, channel, response, response_channel, kept, condition, mark,
    missed_user, told, missed, dead, journal, tallied)
    local record = redis.call('HGET', TURNS, receipt)
    local _, lane, entry = split_turn(record and is_of(record, bridge) and record or '')
    if not entry then
        return refusal(record, receipt, reply, kept, mark)
    end
    if missed_user ~= '' then
        local done, problem = pcall(remember, missed_user, told, missed)
        if not done then
            mend_missed(missed_user, missed, problem)
        end
    end
    answer(outcome, reply, channel, response, response_channel, kept, condition, mark)
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

local results = {}
for at = FIRST, #ARGV, FIELDS do
    local done, result = pcall(settle, unpack(ARGV, at, at + FIELDS - 1))
    if not done and type(result) ~= 'table' then  -- a table in Redis 7 and later, a text before
        result = { err = result }
    end
    results[#results + 1] = result
end
call_many('ZREM', LEASES, receipts)
call_many('ZREM', BEGUN, receipts)
close_entries(closed)
for outcome, turns in pairs(outcomes) do
    redis.call('HINCRBY', COUNTERS, 'settled:' .. outcome, turns)
end
tally()
results[#results + 1] = redis.call('LLEN', READY)
return results
