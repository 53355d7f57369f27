-- Shared by every script of the queue; prepended to each, in front of records.lua, before it is loaded.
--
-- KEYS (request_queue/keys.py is the only other place that knows them)
--   1 requests   list    tasks not taken yet, oldest right
--   2 incoming   list    taken by BLMOVE, not routed yet, oldest right
--   3 lanes      hash    lane -> receipt of its turn in flight
--   4 ready      list    lanes with work and no turn in flight, next one left
--   5 turns      hash    receipt -> record
--   6 leases     zset    receipt -> deadline (ms, this server's clock)
--   7 replies    stream  every reply, capped
--   8 dead       list    dead letters, newest left
--   9 counters   hash    taken, handed_out, redelivered, restored, answers_refused, missed_pending, missed_dropped,
--                        dead_dropped, journal_dropped, journal_bytes, journal_looks, settled:<outcome>
--  10 bridges    zset    bridge -> last heartbeat (ms)
--  11 paused    hash    mode (all | intake), since (ms), reason; absent while the queue is not paused
--  12 lane:      prefix  + lane: list of waiting entries, oldest right
--  13 reply:     prefix  + user:task_id: the stored reply
--  14 missed:    prefix  + user: missed turns, oldest left
--  15 journal    stream  answered turns that are not in the database yet
--  16 journal_writer  string  the bridge that currently writes them, expires
--  17 choices  hash    users' choices about permanent memory; consent/lua/common.lua says what is in it
--  18 call:      prefix  + taker: ticket of the taker's last hand-out call that Redis executed, expires
--  19 held      hash    lane -> "<until_ms> <since_ms> <renewed_ms> <holder> <why>": no turn of it is handed out
--  20 open      hash    tenth of a second -> tasks taken in it and not settled; shows the oldest without payloads
--  21 tally:     prefix  + minute: hash word -> turns settled in that minute under the word, expires
--  22 begun      zset    receipt -> when the turn was handed out (ms); a turn handed out by an older bridge has no entry
--  23 order      hash    tasks (taken from the request list so far), newest_ms (the latest first_ms), opted_in_ms (the
--                        latest time up to which an opt-in does not apply); older bridges neither read nor write it
--  24 opt_ins    zset    user key -> value of `tasks` at which the user's opt-in applies (consent/lua/common.lua)
--  25 stream:     prefix  + user:task_id: the task's stream of events (task_streams.lua), expires
--  26 interrupts  hash    user:task_id -> interrupt (interrupts.lua), expires
--
-- A receipt is the fencing token of one hand-out: "<ticket>-<n>" is the n-th turn of the hand-out call with that
-- ticket; "<ticket>+<n>" was handed to the connection on which an idle bridge waits. Tickets come from the bridges
-- (request_queue/calls.py), because counters in Redis run backwards when Redis loses acknowledged writes.
--
-- Invariants, each holding between any two commands:
--   a lane is in `lanes`, or in `ready` exactly once, or has no entry; dispatch skips held lanes in `ready`
--   taken = settled + entries in lanes + records in `turns`

local REQUESTS, INCOMING, LANES, READY, TURNS, LEASES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local REPLIES, DEAD, COUNTERS, BRIDGES, PAUSED = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local LANE, REPLY, MISSED, JOURNAL, JOURNAL_WRITER = KEYS[12], KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local CHOICES, CALL = KEYS[17], KEYS[18]
local HELD, OPEN, TALLY, BEGUN = KEYS[19], KEYS[20], KEYS[21], KEYS[22]
local ORDER, OPT_INS = KEYS[23], KEYS[24]
local STREAM, INTERRUPTS = KEYS[25], KEYS[26]

-- A command with any number of arguments, in calls of at most 1000: Lua passes no more than some thousands. Returns the
-- elements of the replies, where those are lists.
local function call_many(command, key, arguments)
    local replies = {}
    for at = 1, #arguments, 1000 do
        local reply = redis.call(command, key, unpack(arguments, at, math.min(at + 999, #arguments)))
        for _, element in ipairs(type(reply) == 'table' and reply or {}) do
            replies[#replies + 1] = element
        end
    end
    return replies
end

-- The results of `each`, called with every group of `fields` arguments from ARGV[first] on: what it returns, or its error.
-- A group that fails does not hold up the others.
local function results_of_groups(first, fields, each)
    local results = {}
    for at = first, #ARGV, fields do
        local done, result = pcall(each, unpack(ARGV, at, at + fields - 1))
        if not done and type(result) ~= 'table' then  -- a table in Redis 7 and later, a text before
            result = { err = result }
        end
        results[#results + 1] = result
    end
    return results
end

local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Counts tasks that are taken and not settled, by the tenth of a second in which they were taken.
local function count_open(tenth, tasks)
    if redis.call('HINCRBY', OPEN, tenth, tasks) <= 0 then
        redis.call('HDEL', OPEN, tenth)  -- below 0: a bridge of an earlier release took it
    end
end

local function tenth_of(first_ms)
    return string.format('%d', math.floor(tonumber(first_ms) / 100))
end

-- Minutes since 1970, the keys of the tallies.
local function minute_of(ms)
    return math.floor(ms / 60000)
end

-- Whether Redis has lost the hand-out of this receipt, which it had acknowledged. A taker's calls are sequential, with
-- rising tickets, so an older last ticket proves the loss.
local function forgotten(bridge, receipt)
    local ticket, part = string.match(receipt, '^(%d+)([-+])')
    local last = redis.call('GET', CALL .. bridge .. (part == '+' and '+' or '')) or ''
    return ticket ~= nil and (last == '' or #last == #ticket and last < ticket)
end
