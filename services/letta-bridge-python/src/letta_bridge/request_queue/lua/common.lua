-- Shared by every script of the queue; prepended to each before it is loaded.
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
--   9 counters   hash    taken, handed_out, redelivered, missed_pending, journal_dropped, journal_looks, settled:<outcome>
--  10 bridges    zset    bridge -> last heartbeat (ms)
--  11 paused    hash    mode (all | intake), since (ms), reason; absent while work goes on
--  12 lane:      prefix  + lane: list of waiting entries, oldest right
--  13 reply:     prefix  + user:task_id: the kept reply
--  14 missed:    prefix  + user: turns the agent does not know yet, oldest left
--  15 journal    stream  answered turns that are not in the database yet
--  16 journal_writer  string  the bridge that writes them now, expires
--  17 held      hash    lane -> "<until_ms> <since_ms> <renewed_ms> <holder> <why>": no turn of it begins meanwhile
--  18 open      hash    tenth of a second -> tasks taken in it and not settled; tells the oldest without its payload
--
-- An entry is a task in a lane:      "<seq> <attempts> <first_ms>\n<payload>"
--   seq       number of the task over the life of the queue
--   attempts  how often it was handed to a bridge
--   first_ms  when it was taken from the request list
-- A record is a turn in flight:      "<taker>\n<lane>\n<entry>"
--   taker     the bridge, with a + where the connection on which it waits took the turn
--
-- Invariants, each holding between any two commands:
--   a lane is in `lanes`, or in `ready` exactly once, or has no entry; a held one, too: it is passed over in `ready`
--   taken = settled + entries in lanes + records in `turns`

local REQUESTS, INCOMING, LANES, READY, TURNS, LEASES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local REPLIES, DEAD, COUNTERS, BRIDGES, PAUSED = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local LANE, REPLY, MISSED, JOURNAL, JOURNAL_WRITER = KEYS[12], KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local HELD, OPEN = KEYS[17], KEYS[18]

local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Counts tasks that are taken and not settled, by the tenth of a second in which they were taken.
local function count_open(tenth, tasks)
    if redis.call('HINCRBY', OPEN, tenth, tasks) <= 0 then
        redis.call('HDEL', OPEN, tenth)  -- below 0: a bridge of a release before took it
    end
end

local function tenth_of(first_ms)
    return string.format('%d', math.floor(tonumber(first_ms) / 100))
end

-- Notes that these entries are not open any more.
local function close_entries(entries)
    local closed = {}
    for _, entry in ipairs(entries) do
        local first_ms = string.match(entry, '^%d+ %d+ (%d+)\n')
        if first_ms then
            local tenth = tenth_of(first_ms)
            closed[tenth] = (closed[tenth] or 0) + 1
        end
    end
    for tenth, tasks in pairs(closed) do
        count_open(tenth, -tasks)
    end
end

local function split_record(record)
    local first = string.find(record, '\n', 1, true)
    local second = string.find(record, '\n', first + 1, true)
    return string.sub(record, 1, first - 1), string.sub(record, first + 1, second - 1), string.sub(record, second + 1)
end

local function split_entry(entry)
    local seq, attempts, first_ms, start = string.match(entry, '^(%d+) (%d+) (%d+)\n()')
    return seq, tonumber(attempts), first_ms, string.sub(entry, start)
end

local function join_entry(seq, attempts, first_ms, payload)
    return seq .. ' ' .. string.format('%d', attempts) .. ' ' .. first_ms .. '\n' .. payload
end

-- Ends a turn in flight: its lease goes, and its lane takes its place at the end of `ready` if it has more work.
local function close_turn(receipt, lane)
    redis.call('HDEL', TURNS, receipt)
    redis.call('ZREM', LEASES, receipt)
    redis.call('HDEL', LANES, lane)
    if redis.call('EXISTS', LANE .. lane) == 1 then
        redis.call('RPUSH', READY, lane)
    end
end

-- Puts a turn in flight back at the head of its lane, and the lane at the head of `ready`.
local function give_back(receipt, record, attempts_back)
    local _, lane, entry = split_record(record)
    local seq, attempts, first_ms, payload = split_entry(entry)
    redis.call('HDEL', TURNS, receipt)
    redis.call('ZREM', LEASES, receipt)
    redis.call('HDEL', LANES, lane)
    redis.call('RPUSH', LANE .. lane, join_entry(seq, attempts - attempts_back, first_ms, payload))
    redis.call('LPUSH', READY, lane)
end
