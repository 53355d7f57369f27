-- The formats of the queue's records, and how unreadable records are set aside. Prepended to each script.
--
-- Every record has a format version; a record without one has version 1.
--
--   entry    a task in a lane       "<seq> <attempts> <first_ms>\n<payload>"
--              seq       digits; the counter `taken`, then the ticket of the call that took the task (older bridges
--                        wrote the counter alone). "<seq>-<first_ms>" is the task's number, unique for ever
--              attempts  how often it was handed to a bridge; with a 0 before it one more hand-out is only supposed,
--                        or was forgiven by `dead retry`: the task may be in Letta, but max_deliveries does not count it
--              first_ms  when it was taken from the request list
--            A later version begins with "v<N> ".
--   turn     a task in flight       "<taker>\n<lane>\n<entry>"
--              taker     the bridge, with a + where the connection on which it waits took the turn
--            A later version ends the first line with " v<N>".
--   letter   a dead letter          "<line of JSON>\n<body>"
--              body      the task as it was pushed; in version 2 ("v": 2 in the line) a record that was set aside
--   JSON     in the journal's stream and of missed turns: a later version has "v": <N>.
--
-- A record of a later version, or a damaged one, becomes a dead letter byte for byte, and its lane is served again.

local WHY = {
    newer_record = 'a later release of the bridge wrote this record: upgrade this one, then retry the letter',
    unreadable_record = 'this record is damaged; it is kept as it was found',
}

-- seq, attempts, first_ms (all as text) and payload; nil if the entry does not have version 1.
local function split_entry(entry)
    local seq, attempts, first_ms, start = string.match(entry, '^(%d+) (%d+) (%d+)\n()')
    if seq then
        return seq, attempts, first_ms, string.sub(entry, start)
    end
end

-- Counts these entries as not open any more. An entry of another version has no time; `oldest` corrects the surplus.
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

local function join_entry(seq, attempts, first_ms, payload)
    return seq .. ' ' .. attempts .. ' ' .. first_ms .. '\n' .. payload
end

-- The attempts of an entry, changed by `change`; a leading 0 stays.
local function add_attempts(attempts, change)
    local mark = string.find(attempts, '^0%d') and '0' or ''
    return mark .. string.format('%d', math.max(0, tonumber(attempts) + change))
end

-- Taker, lane and entry; nil if the record does not have version 1. The entry may have any version.
local function split_turn(record)
    local first = string.find(record, '\n', 1, true)
    local second = first and string.find(record, '\n', first + 1, true)
    local taker = second and string.sub(record, 1, first - 1)
    if taker and not string.find(taker, ' v%d+$') then
        return taker, string.sub(record, first + 1, second - 1), string.sub(record, second + 1)
    end
end

-- Whether this bridge holds the turn; the + of its waiting connection counts as the same bridge.
local function is_of(record, bridge)
    local length = #bridge
    if string.sub(record, 1, length) ~= bridge then
        return false
    end
    local rest = string.sub(record, length + 1, length + 2)
    return rest == '+\n' or string.sub(rest, 1, 1) == '\n'
end

-- The counter `journal_bytes` holds the size of the journal's backlog. An empty stream resets it, which removes the
-- error caused by bridges of the previous release, which do not count.
local function count_journal(bytes)
    local before = redis.call('XLEN', JOURNAL) > 0 and redis.call('HGET', COUNTERS, 'journal_bytes') or 0
    redis.call('HSET', COUNTERS, 'journal_bytes', string.format('%d', math.max(0, before + bytes)))
end

local function add_to_journal(turn, reply)
    count_journal(#turn + #reply)
    return redis.call('XADD', JOURNAL, '*', 'turn', turn, 'reply', reply)
end

local function remove_from_journal(id, turn, reply)
    if redis.call('XDEL', JOURNAL, id) == 1 then
        count_journal(-#turn - #reply)
    end
end

-- The digest that identifies a dead letter: the SHA-1 of all of it. For a letter without an ordinary task, that of its
-- length and both ends, because a SHA-1 blocks Redis for 10 ms per 3 MB.
local function letter_digest(letter)
    local HASHED_WHOLE, END = 524288, 4096
    if #letter <= HASHED_WHOLE then
        return redis.sha1hex(letter)
    end
    return redis.sha1hex(#letter .. '\n' .. string.sub(letter, 1, END) .. string.sub(letter, -END))
end

local function fault_of(record)
    local newer = string.find(record, '^v%d+ ') or string.find(record, '^[^\n]* v%d+\n')
    if not newer then
        local _, _, entry = split_turn(record)
        newer = entry and string.find(entry, '^v%d+ ')
    end
    return newer and 'newer_record' or 'unreadable_record'
end

-- The lane of a user: their id, with a ~ in front where it begins with one, as the names of all other lanes do.
local function user_lane(user)
    return string.sub(user, 1, 1) == '~' and '~' .. user or user
end

-- The user of a lane; nil for the lanes of tasks that name no user, and for those of tasks that found a lane full.
local function user_of(lane)
    if string.sub(lane, 1, 1) ~= '~' then
        return lane
    end
    return string.sub(lane, 2, 2) == '~' and string.sub(lane, 2) or nil
end

-- Stores an unreadable record as a dead letter. kind: entry | turn | journal | missed | key
local function set_aside(kind, code, lane, record)
    local about = { v = 2, record = kind, code = code, reason = WHY[code], time = now_ms() / 1000,
        lane = lane or nil, user_id = lane and user_of(lane) or nil }
    redis.call('LPUSH', DEAD, cjson.encode(about) .. '\n' .. record)
end

-- The same for a task (entry | turn), as its outcome.
local function bury_record(kind, lane, record)
    set_aside(kind, fault_of(record), lane, record)
    redis.call('HINCRBY', COUNTERS, 'settled:dead', 1)
    close_entries({ record })
end

-- Stores a key of the wrong type as a dead letter (its DUMP, for an administrator's RESTORE) and deletes it. Returns
-- false if this Redis user may not DUMP.
local function set_key_aside(key, lane)
    local content = redis.pcall('DUMP', key)
    if type(content) ~= 'string' then
        return false
    end
    set_aside('key', 'unreadable_record', lane, content)
    redis.call('DEL', key)
    return true
end

-- Whether a pcall failed with WRONGTYPE; its error is a table since Redis 7, a string before.
local function is_wrong_type(result)
    local text = type(result) == 'table' and result.err or result
    return type(text) == 'string' and string.find(text, 'WRONGTYPE', 1, true) ~= nil
end

-- Length of a list; 0 for a key of another type.
local function length_of(key)
    local length = redis.pcall('LLEN', key)
    return type(length) == 'number' and length or 0
end

-- Adds an entry at the tail (LPUSH) or the head (RPUSH) of a lane. Returns the new length; 0 if the lane's key has
-- another type and cannot be set aside, in which case the entry becomes a dead letter.
local function push(command, lane, entry)
    local waiting = redis.pcall(command, LANE .. lane, entry)
    if is_wrong_type(waiting) and not set_key_aside(LANE .. lane, lane) then
        bury_record('entry', lane, entry)
        return 0
    end
    return type(waiting) == 'number' and waiting or redis.call(command, LANE .. lane, entry)
end

-- Adds a task at the tail of a lane, and makes the lane ready if it was empty and idle.
local function enqueue(lane, entry)
    if push('LPUSH', lane, entry) == 1 and redis.call('HEXISTS', LANES, lane) == 0 then
        redis.call('RPUSH', READY, lane)
    end
end

-- Ends a turn in flight, all but its entries in `leases` and `begun`: its lane takes its place at the end of `ready` if it
-- has more work.
local function free_lane(receipt, lane)
    redis.call('HDEL', TURNS, receipt)
    redis.call('HDEL', LANES, lane)
    if redis.call('EXISTS', LANE .. lane) == 1 then
        redis.call('RPUSH', READY, lane)
    end
end

-- Ends a turn in flight.
local function close_turn(receipt, lane)
    free_lane(receipt, lane)
    redis.call('ZREM', LEASES, receipt)
    redis.call('ZREM', BEGUN, receipt)
end

-- Sets an unreadable turn aside and frees its lane, which is found in `lanes`.
local function close_unreadable(receipt, record)
    local lanes, lane = redis.call('HGETALL', LANES), nil
    for index = 1, #lanes, 2 do
        if lanes[index + 1] == receipt then
            lane = lanes[index]
        end
    end
    bury_record('turn', lane, record)
    close_turn(receipt, lane or '')
end

-- Puts a turn in flight back at the head of its lane, and the lane at the head of `ready`.
local function give_back(receipt, record, attempts_back)
    local _, lane, entry = split_turn(record)
    local seq, attempts, first_ms, payload
    if entry then
        seq, attempts, first_ms, payload = split_entry(entry)
    end
    if not seq then
        close_unreadable(receipt, record)
        return
    end
    redis.call('HDEL', TURNS, receipt)
    redis.call('ZREM', LEASES, receipt)
    redis.call('ZREM', BEGUN, receipt)
    local busy = redis.call('HGET', LANES, lane)
    local waiting = push('RPUSH', lane, join_entry(seq, add_attempts(attempts, -attempts_back), first_ms, payload))
    if busy == receipt then
        redis.call('HDEL', LANES, lane)
    end
    if waiting > 0 and (busy == receipt or not busy and waiting == 1) then
        redis.call('LPUSH', READY, lane)
    end
end
