-- restore: put a bridge's turns back in flight whose hand-outs Redis has lost.
--
-- ARGV 1 bridge  2 lease_ms  then for each turn: receipt, lane, seq, attempts, first_ms, payload ('' if it was cut)
-- Returns for each turn 1 if it is in flight under its receipt, 0 if another bridge has the task or has settled it.

local bridge, lease_ms = ARGV[1], tonumber(ARGV[2])
local FIRST, FIELDS, PAGE, PAGE_BYTES = 3, 6, 100, 1048576
-- How many of the oldest elements of the request list are compared with a payload; lost tasks reappear there.
local UNTAKEN = 1000

-- Removes a task from the lane it waits in. Returns its payload, or nil if it does not wait there. Most wait near the
-- head; the pages grow while the entries are small.
local function take_out(lane, seq)
    local first, last, page = -1, -length_of(LANE .. lane), 1
    while first >= last do
        local entries, bytes = redis.call('LRANGE', LANE .. lane, first - page + 1, first), 0
        for _, entry in ipairs(entries) do
            local its_seq, _, _, payload = split_entry(entry)
            if its_seq == seq then
                redis.call('LREM', LANE .. lane, -1, entry)
                return payload
            end
            bytes = bytes + #entry
        end
        first = first - page
        page = math.max(1, math.min(PAGE, 4 * page, math.floor(PAGE_BYTES * page / (bytes + 1))))
    end
end

local function names_itself(payload)
    local task = read_task(payload)
    local id = task and task.task_id
    return type(id) == 'number' or type(id) == 'string' and id ~= ''
end

-- Removes a task from the request list if its push survived and its hand-out did not. Only one that names a task id: it
-- may have been pushed again, and the reply to the first answers both. Redis compares by itself (LPOS); where this Redis
-- user may not ask for that, LREM looks through the whole list.
local function take_back(payload)
    if not names_itself(payload) then
        return
    end
    for _, list in ipairs({ INCOMING, REQUESTS }) do
        local at = redis.pcall('LPOS', list, payload, 'RANK', -1, 'MAXLEN', UNTAKEN)
        if at and redis.call('LREM', list, -1, payload) > 0 then
            return
        end
    end
end

local function runs_there(lane, seq)
    local running = redis.call('HGET', LANES, lane)
    local _, _, entry = split_turn(running and redis.call('HGET', TURNS, running) or '')
    return entry and split_entry(entry) == seq
end

local function restore(receipt, lane, seq, attempts, first_ms, payload)
    local record = redis.call('HGET', TURNS, receipt)
    if record or not forgotten(bridge, receipt) then
        return record and is_of(record, bridge) and 1 or 0
    end
    local waiting = take_out(lane, seq)
    if not waiting then
        if payload == '' or runs_there(lane, seq) then
            return 0
        end
        take_back(payload)
        redis.call('HINCRBY', COUNTERS, 'taken', 1)
        count_open(tenth_of(first_ms), 1)
        if tonumber(first_ms) > tonumber(redis.call('HGET', ORDER, 'newest_ms') or 0) then
            redis.call('HSET', ORDER, 'newest_ms', first_ms)
        end
    end
    if redis.call('HEXISTS', LANES, lane) == 1 then
        lane = lane .. '~again:' .. receipt  -- a later turn of the user is in flight: finish this one beside it
    else
        redis.call('LREM', READY, 0, lane)
    end
    local taker = bridge .. (string.find(receipt, '+', 1, true) and '+' or '')
    redis.call('HSET', TURNS, receipt, taker .. '\n' .. lane .. '\n' .. join_entry(seq, attempts, first_ms, waiting or payload))
    redis.call('HSET', LANES, lane, receipt)
    redis.call('ZADD', LEASES, now_ms() + lease_ms, receipt)
    redis.call('HINCRBY', COUNTERS, 'restored', 1)
    return 1
end

local results = {}
for at = FIRST, #ARGV, FIELDS do
    results[#results + 1] = restore(unpack(ARGV, at, at + FIELDS - 1))
end
return results
